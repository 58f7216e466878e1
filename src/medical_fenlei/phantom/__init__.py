"""A synthetic hospital: temporal bones drawn from known anatomy and written as real DICOM. Synthetic, not clinical evidence.

The way of the data: `anatomy` (a person as data) and `disease` (what a code changes in one ear) are painted by `head` and
`temporal_bone` on any grid; `scanner` blurs and adds noise; `series` writes files; `population` says who is examined, how and
when; `hospital` writes it all, or draws ear volumes without files.
"""
