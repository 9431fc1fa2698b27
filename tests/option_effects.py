"""What each option of each command changes: the table that `test_options` goes through.

``EFFECTS[command][option]`` is one proof or a list of them. Words are split at spaces and may name
files of the world, the folder that `option_world.make_world` fills: ``{w}/test.rec``.
"""

from typing import NamedTuple, Optional


class Changes(NamedTuple):
    """The command is run without and with `words`: both succeed, and `seen` differs.

    Both have `base` beside the command's usual words, or `instead` of them.
    """

    words: str
    seen: str = 'out'
    base: str = ''
    instead: Optional[str] = None


class Refused(NamedTuple):
    """The command succeeds without `words`, and refuses them in one line that has `message`."""

    words: str
    message: str
    base: str = ''
    instead: Optional[str] = None


class Elsewhere(NamedTuple):
    """The test of this name uses the option, and asserts what it does."""

    test: str


class SameAs(NamedTuple):
    """The option is that of `command`, and both give it to `function`."""

    command: str
    function: str


PARTITIONS = '--primary-partition 2 --secondary-partition 2'
IGC = '--depth 8 ' + PARTITIONS
NETWORK = '--network resnet_igc --classes 3 ' + IGC
SLIMMABLE = ('--network wideresnet28_10_us --classes 4 --depth 10 --widen-factor 1 '
             '--width-mult-range 0.5,1.0 --width-mult-list 0.5,1.0')
DYNAMIC = ('--network dydensenet --stages 1-1-1 --growth 4-8-8 --classes 3 --heads 2 '
           '--squeeze-rate 4')
CALIBRATE = '--calibrate {w}/train.rec --calibrate-batches 1 --calibrate-batch-size 4'

# The words of each command, to which those of an experiment are added, at the end or at {}; an
# option that is given again replaces the first.
USUAL = {
    'im2rec_pack': 'data {w}/tree --num-thread 1',
    'augment': '--preview p.png --preset igc-1 {w}/test.rec',
    'data bench': '{w}/test.rec --preset igc-1 --seconds 0.05 --batch-size 4 --decode-threads 1',
    'train': '--network resnet_igc ' + IGC + ' --dataset records --data-dir {w} --log-dir log '
             '--num-epochs 1 --batch-size 8 --lr 0.05 --rand-seed 3',
    'launch': '-n 2 --port 4000 {} true',
    'evaluate': NETWORK + ' --params {w}/net.params --data {w}/test.rec --json f.json '
                '--batch-size 8',
    'predict': NETWORK + ' --params {w}/net.params --output y.npz --batch-size 8 {w}/test.rec',
    'export': NETWORK + ' --params {w}/net.params --output x --strategy cheapest+merge',
    'bench': 'resnet_igc ' + IGC + ' --forms stock --batch-sizes 1 --rounds 1',
    'dgc inspect': DYNAMIC + ' --params {w}/dynamic.params --data {w}/test.rec --json f.json '
                   '--batch-size 8',
    'dgc freeze': DYNAMIC + ' --params {w}/dynamic.params --data {w}/test.rec --output x '
                  '--batch-size 8',
    'query_table': SLIMMABLE + ' --params {w}/slimmable.params --data {w}/test.rec --widths 0.5 '
                   '--latency-repeats 1 --batch-size 8 ' + CALIBRATE,
    'cut': SLIMMABLE + ' --params {w}/slimmable.params --output x',
    'torch_to_mxnet': DYNAMIC + ' --input {w}/dynamic.pt --output x',
    'mxnet_to_torch': DYNAMIC + ' --input {w}/dynamic.params --output x.pt',
    'compare_originals': '{w}/originals',
    'release': '{w}/run --output x',
    'list': 'plain*',
    'profile': 'plain_igc --depth 5 ' + PARTITIONS,
    'im2rec_pack verify': '{w}/test.rec',
    'im2rec_pack info': '{w}/test.rec',
    'im2rec_pack merge': 'x {w}/test.rec',
    'im2rec_pack split': '{w}/copy/test',
    'im2rec_pack extract': '{w}/test.rec x',
}


def trained(seen, other, symbol, network):
    """Options that name a trained network; `seen` tells the network of `other` apart."""
    return {
        '--network': network,
        '--params': Changes('--params {w}/%s.params' % other, seen),
        '--symbol': symbol,
        '--dataset': Changes('--dataset svhn', seen),
        '--pretrained': SameAs('evaluate', 'load_source'),
    }


DEVICES = {
    '--batch-size': Changes('--batch-size 3', 'batches'),
    '--gpus': Refused('--gpus 0', 'CPU build'),
    '--cpus': Changes('--cpus 2', 'batches'),
    '--threads': Changes('--threads 3', 'threads'),
}


def calibrating(seen, instead=None):
    """The options of `igcnet.cli.calibration`."""
    return {words.split()[0]: Changes(words, seen, instead=instead) for words in (
        '--calibrate {w}/other.rec', '--calibrate-batches 2', '--calibrate-batch-size 6',
        '--calibrate-augmentation igc-0', '--calibrate-seed 4')}


GRAPH = Elsewhere('test_cli_evaluate_predict.py::'
                  'test_predict_array_gives_logits_from_every_layout')
NO_GRAPH = Refused('--symbol {w}/new-symbol.json', 'give --network')
TRAIN_RUNS, TRAIN_RECIPES, RESUMING, JOBS = (
    'test_cli_train.py::', 'test_cli_train_recipes.py::', 'test_cli_resume.py::',
    'test_distributed.py::')
PACKING = 'test_cli_im2rec_pack.py::'
ANOTHER = Refused('--network plain_igc', 'does not fit')
OTHER_SETTINGS = Refused('--network plain_igc', 'plain_igc has no such setting')
TIMES = '--time --batch-size 2 --rounds 1'
EVALUATED = SLIMMABLE + ' --params {w}/slimmable.params --data {w}/test.rec --json f.json '

EFFECTS = {
    'im2rec_pack': {
        '--dataset': Elsewhere(PACKING + 'test_digits'),
        '--download': Elsewhere('test_downloading.py::'
                                'test_the_command_fetches_goes_on_and_packs'),
        '--list': Elsewhere(PACKING + 'test_two_steps_with_split_tree'),
        '--exts': Changes('--exts .png', 'data.lst'),
        '--chunks': Changes('--chunks 2', 'names'),
        '--train-ratio': Changes('--train-ratio 0.5', 'names'),
        '--test-ratio': Changes('--test-ratio 0.25', 'names', '--train-ratio 0.5'),
        '--labels': Elsewhere('test_labelling.py::test_command'),
        '--class-names': Elsewhere('test_labelling.py::test_command'),
        '--stratified': Changes('--stratified', 'data_train.lst', '--train-ratio 0.5'),
        '--split-by-folder': Elsewhere(PACKING + 'test_split_by_folder_is_forced'),
        '--recursive': Changes('--recursive', 'data.lst', instead='data {w}/nested --num-thread 1'),
        '--no-shuffle': Changes('--no-shuffle', 'data.lst'),
        '--seed': Changes('--seed 7', 'data.lst'),
        '--preset': Changes('--preset igc-imagenet', 'data.rec'),
        '--pass-through': Changes('--pass-through', 'data.rec'),
        '--resize': Changes('--resize 16', 'data.rec'),
        '--interp': Changes('--interp area', 'data.rec', '--resize 16'),
        '--center-crop': Changes('--center-crop', 'data.rec'),
        '--quality': Changes('--quality 30', 'data.rec'),
        '--color': Changes('--color 0', 'data.rec'),
        '--encoding': Changes('--encoding .png', 'data.rec'),
        '--pack-label': Elsewhere(PACKING + 'test_edited_list'),
        '--num-thread': Changes('--num-thread 2', 'processes'),
        '--max-bad': Elsewhere(PACKING + 'test_bad_images'),
    },
    'augment': {
        '--list': Elsewhere('test_cli_augment.py::'
                            'test_list_names_every_preset_with_its_settings'),
        '--preview': Changes('--preview other.png', 'names'),
        '--preset': Changes('--preset igc-2', 'p.png'),
        '--size': Changes('--size 24', 'p.png'),
        '--fill': Changes('--fill 255,0,0', 'p.png'),
        '--times': Changes('--times 2', 'p.png'),
        '--first': Changes('--first 2', 'p.png'),
        '--rand-seed': Changes('--rand-seed 1', 'p.png'),
    },
    'data bench': {
        '--preset': Changes('--preset igc-2'),
        '--size': Changes('--size 24', 'readers'),
        '--batch-size': Changes('--batch-size 2', 'readers'),
        '--decode-threads': Changes('--decode-threads 2', 'readers'),
        '--seconds': Changes('--seconds 0.1', 'ticks'),
    },
    'train': {
        '--network': Changes('--network plain_igc', 'names'),
        '--dataset': Changes('--dataset cifar10', 'weights', '--num-classes 3'),
        '--data-dir': Changes('--data-dir {w}/copy', 'weights'),
        '--train-dataset': Changes('--train-dataset other.rec', 'weights'),
        '--val-dataset': Changes('--val-dataset other.rec', 'metrics'),
        '--num-examples': Changes('--num-examples 32', 'weights', '--num-epochs 2 --lr-steps 1'),
        '--data-shape': Changes('--data-shape 24', 'weights'),
        '--mean-rgb': Changes('--mean-rgb 1,2,3', 'weights'),
        '--std-rgb': Changes('--std-rgb 9,9,9', 'weights'),
        '--fb-mean': Changes('--fb-mean', 'readers', '--dataset imagenet --test-io'),
        '--on-bad': Elsewhere(TRAIN_RUNS + 'test_unreadable_images_stop_the_run_or_are_skipped_'
                              'and_counted'),
        '--decode-threads': Changes('--decode-threads 2', 'readers', '--decode-threads 1'),
        '--test-io': Changes('--test-io', 'names'),
        '--recipe': Changes('--recipe modern', 'weights'),
        '--set': Changes('--set wd=0.1', 'weights'),
        '--num-epochs': Changes('--num-epochs 2', 'weights'),
        '--batch-size': Changes('--batch-size 4', 'weights'),
        '--lr': Changes('--lr 0.01', 'weights'),
        '--lr-factor': Changes('--lr-factor 0.5', 'weights', '--num-epochs 2 --lr-steps 1'),
        '--lr-steps': Changes('--lr-steps 1', 'weights', '--num-epochs 2'),
        '--lr-epoch-step': Changes('--lr-epoch-step 1', 'weights', '--num-epochs 2'),
        '--aug-type': Changes('--aug-type 0', 'weights'),
        '--augmentation': Changes('--augmentation mutualnet-mobile', 'weights'),
        '--load-model': Changes('--load-model {w}/net.params', 'weights'),
        '--pretrained': Changes('--pretrained {w}/net.params', 'weights'),
        '--freeze': Changes('--freeze g0_*', 'weights'),
        '--teacher': Elsewhere(TRAIN_RECIPES + 'test_distillation'),
        '--teacher-params': Elsewhere(TRAIN_RECIPES + 'test_distillation'),
        '--gpus': Refused('--gpus 0', 'CPU build'),
        '--cpus': Changes('--cpus 2', 'weights'),
        '--sync-bn': Changes('--sync-bn', 'weights', '--cpus 2'),
        '--kv-store': Changes('--kv-store local', 'stores', '--cpus 2'),
        '--gc-type': Elsewhere(JOBS + 'test_settings_decide_about_compression_and_what_'
                               'asynchronous_servers_cannot'),
        '--gc-threshold': Elsewhere(JOBS + 'test_settings_decide_about_compression_and_what_'
                                    'asynchronous_servers_cannot'),
        '--lowering': Changes('--lowering blocked', 'lowerings'),
        '--tune': Elsewhere('test_tuning.py::test_the_trainer_asks_for_it'),
        '--precision': Elsewhere('test_precision.py::'
                                 'test_bfloat16_trains_and_leaves_a_network_of_float32'),
        '--threads': Changes('--threads 3', 'threads'),
        '--deterministic': Elsewhere(RESUMING + 'test_other_conditions_are_a_warning_or_refused'),
        '--log-dir': Changes('--log-dir other', 'names'),
        '--exp-name': Changes('--exp-name other', 'names'),
        '--log-iters': Changes('--log-iters 1', 'metrics'),
        '--checkpoint-epochs': Changes('--checkpoint-epochs 2', 'names',
                                       '--num-epochs 2 --model-prefix old-'),
        '--checkpoint-steps': Changes('--checkpoint-steps 1', 'names'),
        '--checkpoint-seconds': Elsewhere(RESUMING + 'test_when_checkpoints_are_written_and_which_'
                                          'are_kept'),
        '--keep': Changes('--keep 1', 'names', '--num-epochs 2'),
        '--on-nan': Elsewhere(RESUMING + 'test_divergence_stops_or_rolls_back'),
        '--loss-limit': Refused('--loss-limit 0.001', 'loss'),
        '--test-batch-size': Changes('--test-batch-size 3', 'batches'),
        '--rand-seed': Changes('--rand-seed 4', 'weights'),
        '--resume': Elsewhere(TRAIN_RUNS + 'test_resume_equals_the_straight_run'),
        '--load-epoch': Elsewhere(TRAIN_RUNS + 'test_resume_finds_the_newest_run_and_load_epoch_'
                                  'an_older_checkpoint'),
        '--model-prefix': Changes('--model-prefix old-', 'names'),
    },
    'launch': {
        '--workers': Changes('-n 3', 'job'),
        '--servers': Changes('-s 2', 'job'),
        '--hostfile': Changes('-H {w}/hosts', 'job'),
        '--launcher': Refused('--launcher ssh', '--hostfile'),
        '--address': Changes('--address 127.0.0.1', 'job'),
        '--port': Changes('--port 4001', 'job'),
        '--silence': [Changes('--silence 9', 'job'),
                      Elsewhere('test_launch.py::test_a_machine_that_falls_silent_is_named')],
        '--log-folder': [Changes('--log-folder logs', 'job'), Elsewhere(
            'test_launch.py::test_workers_are_shown_by_rank_and_know_their_place')],
    },
    'evaluate': {
        **trained('f.json', 'net2', GRAPH, ANOTHER), **DEVICES,
        **calibrating('f.json', EVALUATED + CALIBRATE),
        '--pretrained': Elsewhere('test_release.py::test_evaluate_gives_the_recorded_figures'),
        '--data': Changes('--data {w}/other.rec', 'f.json'),
        '--labels': Elsewhere('test_cli_evaluate_predict.py::'
                              'test_flat_folder_with_a_label_file'),
        '--resolution': Changes('--resolution 24', 'f.json', instead=EVALUATED),
        '--confusion': Changes('--confusion c', 'names'),
        '--predictions': Changes('--predictions p.csv', 'names'),
        '--json': Changes('--json other.json', 'names'),
    },
    'predict': {
        **trained('y.npz', 'net2', GRAPH, ANOTHER), **DEVICES,
        '--pretrained': Elsewhere('test_release.py::test_predict_a_photograph_out_of_the_box'),
        '--top': Elsewhere('test_cli_evaluate_predict.py::'
                           'test_predict_images_and_folders_as_a_table'),
        '--output': Changes('--output other.npz', 'names'),
    },
    'export': {
        **trained('x-manifest.json', 'net2',
                  Elsewhere('test_cli_export.py::test_the_files_compute_the_same'), ANOTHER),
        '--pretrained': Elsewhere('test_release.py::test_export_of_released_weights'),
        '--output': Changes('--output other', 'names'),
        '--format': Elsewhere('test_cli_export.py::test_the_files_compute_the_same'),
        '--input-size': Elsewhere('test_cli_export.py::'
                                  'test_a_network_of_several_widths_at_one'),
        '--pixels': Changes('--pixels', 'x-symbol.json'),
        '--batch-size': Elsewhere('test_cli_export.py::'
                                  'test_the_choice_is_measured_and_remembered'),
        '--strategy': Changes('--strategy stock', 'x-symbol.json'),
        '--int8': Elsewhere('test_cli_export.py::test_eight_bits'),
        '--calibration': Elsewhere('test_cli_export.py::test_eight_bits'),
        '--calibration-images': Elsewhere('test_cli_export.py::test_eight_bits'),
        '--int8-tolerance': Elsewhere('test_cli_export.py::test_a_tolerance_of_eight_bits'),
        '--accuracy': Changes('--accuracy {w}/test.rec'),
        '--engine': Changes('--engine never', 'x-manifest.json'),
        '--tune': Elsewhere('test_cli_export.py::test_the_choice_is_measured_and_remembered'),
        '--explain': Changes('--explain'),
        '--threads': Changes('--threads 3', 'threads'),
    },
    'bench': {
        '--input-size': Changes('--input-size 24', 'images'),
        '--batch-sizes': Changes('--batch-sizes 2', 'turns'),
        '--forms': Elsewhere('test_bench.py::test_table_json_and_plot'),
        '--rounds': Changes('--rounds 2', 'turns'),
        '--threads': Changes('--threads 3', 'threads'),
        '--json': Changes('--json f.json', 'names'),
        '--plot': Changes('--plot p.png', 'names'),
    },
    'dgc inspect': {
        **trained('f.json', 'dynamic2', NO_GRAPH, OTHER_SETTINGS), **DEVICES,
        '--data': Changes('--data {w}/other.rec', 'f.json'),
        '--picture': Changes('--picture p.png', 'names'),
        '--json': Changes('--json other.json', 'names'),
    },
    'dgc freeze': {
        **trained('x-0000.params', 'dynamic2', NO_GRAPH, OTHER_SETTINGS), **DEVICES,
        '--data': Changes('--data {w}/other.rec', 'x-0000.params'),
        '--test': Changes('--test {w}/other.rec'),
        '--output': Changes('--output other', 'names'),
    },
    'query_table': {
        **trained('pairs', 'slimmable2', NO_GRAPH, OTHER_SETTINGS), **DEVICES,
        **calibrating('pairs'),
        '--data': Changes('--data {w}/other.rec', 'pairs'),
        '--widths': Changes('--widths 1.0', 'pairs'),
        '--resolutions': Changes('--resolutions 24', 'pairs'),
        '--latency-batch-size': Changes('--latency-batch-size 2', 'timed'),
        '--latency-repeats': Changes('--latency-repeats 3', 'timed'),
        '--output': Changes('--output other', 'names'),
    },
    'cut': {
        **trained('x-manifest.json', 'slimmable2', NO_GRAPH, OTHER_SETTINGS),
        '--output': Changes('--output other', 'names'),
        '--table': Elsewhere('test_cli_slimmable.py::test_cut'),
        '--resolution': Elsewhere('test_cli_slimmable.py::test_cut'),
    },
    'torch_to_mxnet': {
        '--network': OTHER_SETTINGS,
        '--input': Changes('--input {w}/dynamic2.pt', 'x-0000.params'),
        '--output': Changes('--output other', 'names'),
        '--allow-missing': Changes('--allow-missing', 'code', '--classes 7'),
        '--list': Changes('--list'),
        '--verify': Elsewhere('test_cli_convert.py::test_verify_with_outputs'),
        '--tolerance': Elsewhere('test_cli_convert.py::test_verify_with_outputs'),
    },
    'mxnet_to_torch': {
        '--network': OTHER_SETTINGS,
        '--input': Changes('--input {w}/dynamic2.params', 'x.pt'),
        '--output': Changes('--output other.pt', 'names'),
        '--origin': Elsewhere('test_cli_convert.py::test_origin_of_other_parameters'),
        '--container': Changes('--container zip', 'x.pt'),
        '--allow-missing': Changes('--allow-missing', 'code', '--input {w}/part.params'),
        '--verify': Elsewhere('test_cli_convert.py::test_verify_with_torch'),
        '--tolerance': Elsewhere('test_cli_convert.py::test_verify_with_outputs'),
    },
    'compare_originals': {
        '--tolerance': Changes('--tolerance 10', 'code'),
        '--keep': Changes('--keep kept', 'names', '--tolerance 10'),
    },
    'release': {
        '--output': Elsewhere('test_release.py::test_averaged_weights_and_an_earlier_epoch'),
        '--epoch': Elsewhere('test_release.py::test_averaged_weights_and_an_earlier_epoch'),
    },
    'list': {
        '--json': Changes('--json'),
        '--markdown': Changes('--markdown'),
    },
    'profile': {
        '--input-size': Changes('--input-size 64', instead='resnet_igc ' + IGC),
        '--all': Changes('--all'),
        '--time': Changes('--time --batch-size 2 --rounds 1'),
        '--batch-size': Changes('--batch-size 3', 'inputs', TIMES),
        '--lowering': Changes('--lowering blocked', 'lowerings', TIMES),
        '--rounds': Changes('--rounds 2', 'inputs', TIMES),
        '--threads': Changes('--threads 3', 'threads', TIMES),
        '--data': Elsewhere('test_timing.py::test_command'),
        '--json': Changes('--json'),
        '--csv': Changes('--csv'),
    },
    'im2rec_pack verify': {'--num-thread': Changes('--num-thread 3', 'processes')},
    'im2rec_pack info': {},
    'im2rec_pack merge': {},
    'im2rec_pack split': {
        '--parts': Elsewhere('test_record_commands.py::test_split'),
        '--ratio': Elsewhere('test_record_commands.py::test_split'),
        '--stratified': Elsewhere('test_record_commands.py::test_split'),
        '--seed': Elsewhere('test_record_commands.py::test_split'),
    },
    'im2rec_pack extract': {'--first': Changes('--first 2', 'names')},
}
