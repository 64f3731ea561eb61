"""Speed and memory, each measured side by side in one run."""
