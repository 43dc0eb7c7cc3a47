"""One modality in; a concentrated `[REP]` vector and comprehensive tokens out."""
