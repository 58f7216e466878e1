"""How are predictions measured? Measures, and confidence intervals that resample patients. No torch."""
