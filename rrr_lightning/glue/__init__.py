"""From a checkpoint to GLUE: fine-tuning by a protocol, and a report that can be compared."""
