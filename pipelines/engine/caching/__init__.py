"""What a result's key holds, and why it changed."""
