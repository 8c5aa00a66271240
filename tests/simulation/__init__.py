"""A made-up world for the real broker and real agents: one seed draws the faults, the work and every delay, so a failing seed is a test."""
