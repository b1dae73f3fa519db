"""What bench/fleet is made of: a plant of devices, callers, the phases, and the table of figures."""
