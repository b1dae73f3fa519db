"""What bench/soak is made of: an upstream that misbehaves, callers, and accounts."""
