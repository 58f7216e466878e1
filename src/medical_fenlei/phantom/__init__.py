"""What can everything be tested on? A synthetic hospital, drawn from known anatomy and written as real DICOM.

`anatomy` (a person) and `disease` (what a diagnosis code changes in one ear) are sampled as data; `head` and `temporal_bone`
paint them on any grid; `scanner` blurs and adds noise; `series` writes files; `population` samples the exams and their labels;
`hospital` writes everything, or draws ear volumes without files; `challenges` draws unusual scans for tests of the localizer.
Synthetic, not clinical evidence.
"""
