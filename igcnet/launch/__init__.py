"""Starting, watching and ending the processes of a distributed job; no MXNet in here."""
