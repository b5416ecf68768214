"""Synthetic leaves: cultivars of one species that differ in shape, veins and texture, with exact masks and boxes."""

from ufgvc.synthetic.sheet import contact_sheet
from ufgvc.synthetic.writer import CULTIVARS, Leaf, Plan, SynthSettings, make_leaf, make_plan, synthesize

__all__ = ["CULTIVARS", "Leaf", "Plan", "SynthSettings", "contact_sheet", "make_leaf", "make_plan", "synthesize"]
