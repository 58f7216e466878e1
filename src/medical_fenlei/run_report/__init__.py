"""What is known of a run? Everything in one page, made anew from the files of the run."""
