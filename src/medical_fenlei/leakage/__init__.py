"""Does a patient, an exam or a scan stand on both sides of a split?"""
