"""What does a diagnosis rest on? Maps of an ear, how often they point at the lesion, and their pictures."""
