"""Training: data, pseudo-fakes, the AVFF network, export and report.  The only place for torch."""
