"""What of a machine or a cluster will hurt, found before it does."""
