"""The command line: a file for each command, and no logic of builds."""
