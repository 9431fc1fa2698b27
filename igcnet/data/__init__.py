"""From image files to batches: packing, records, augmentation, reading."""
