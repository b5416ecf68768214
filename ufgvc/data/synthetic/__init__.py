"""Synthetic leaves: cultivars of one species that differ in shape, veins and texture, with exact masks and boxes."""

from ufgvc.data.synthetic.writer import CULTIVARS, Leaf, SynthSettings, make_leaf, synthesize

__all__ = ["CULTIVARS", "Leaf", "SynthSettings", "make_leaf", "synthesize"]
