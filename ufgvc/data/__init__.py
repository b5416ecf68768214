"""Photographs, boxes and masks on storage, and how they reach the training device."""
