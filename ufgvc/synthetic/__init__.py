"""Generates synthetic leaves whose cultivars differ in shape, veins and texture, with exact masks and boxes."""

from ufgvc.synthetic.writer import SynthSettings, generate_leaf, plan_leaf, synthesize

__all__ = ["SynthSettings", "generate_leaf", "plan_leaf", "synthesize"]
