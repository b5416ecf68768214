"""Settings of the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.runtime.resources import Device


class ServiceSettings(Settings):
    """What the service accepts, and what answers."""

    host: str = "127.0.0.1"
    """address to listen on; any but this machine's loopback demands --token-file"""
    port: int = Field(8000, ge=1, le=65535)
    """port to listen on"""
    token_file: str | None = None
    """file with the token that a request must bring (Authorization: Bearer ...)"""
    replicas: int = Field(1, ge=1)
    """processes that each hold the model"""
    device: Device = "auto"
    """cpu, gpu (one for each replica), or auto: GPUs if there are enough"""
    batch_size: int = Field(8, ge=1)
    """photographs in a forward pass at most"""
    max_mb: float = Field(20.0, gt=0)
    """size of a request in MB; a larger one is answered with 413"""
    max_files: int = Field(16, ge=1)
    """photographs in a request"""
    max_megapixels: float = Field(64.0, gt=0)
    """million pixels of a photograph; a larger one takes gigabytes to decode and is answered with 422"""
    rate: int = Field(600, ge=1)
    """requests a minute from one address; more are answered with 429"""
    queue: int = Field(64, ge=1)
    """requests that are read, wait or are answered at a time; more are answered with 429"""
    poll: float = Field(10.0, gt=0)
    """seconds between two looks at where the alias of the model points"""

    @property
    def max_bytes(self) -> int:
        """Size of a request in bytes."""
        return int(self.max_mb * 1_000_000)


@dataclass(frozen=True)
class Ended:
    """A service that has ended.  address: where it answered."""

    address: str
    stopped_by: Literal["Control-C", "SIGTERM"]
