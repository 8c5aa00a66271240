"""Tests of the HTTP edge: the real application over a broker that we own."""
