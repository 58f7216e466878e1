"""What are the results of a run? All of them on one page, made from the files of the run."""
