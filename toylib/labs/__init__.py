"""What single notebooks need, one file per subject."""
