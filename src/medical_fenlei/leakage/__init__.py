"""Is a patient, an exam or a scan in more than one set of a split, or in two hospitals?"""
