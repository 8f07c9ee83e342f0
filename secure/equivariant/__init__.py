"""Equivariant sealing: a node runs a model whose weights, inputs and answers are all turned.

Obfuscation, not encryption. An invertible matrix that commutes with the next nonlinearity is put at
every boundary of a model; the sealed model gives the plain answer under the last matrix, in the
plain model's time. It hides ids and numbers from a node that does not know the base model, looks
once and has no pairs of plain and sealed inputs; from anybody who has the base model it hides
nothing. docs/equivariant.md says what protects from whom and what breaks it; every sealing runs the
attacks in `secure.equivariant.attacks` on itself.

No paper specifies such a scheme with its keys (arXiv 2502.01013 gives the idea, no construction);
this one is our own, from the groups of `operations`, `decoder` and `encoder`.
"""

from secure.equivariant.attacks import attack
from secure.equivariant.attacks.probes import Probes
from secure.equivariant.decoder import Decoder
from secure.equivariant.encoder import Encoder
from secure.equivariant.keys import SealingKey, unlock
from secure.equivariant.model import Model
from secure.equivariant.modules import from_torch
from secure.equivariant.network import Network
from secure.equivariant.parties import Node, Owner, Sealing, Silo
from secure.equivariant.report import LABEL, Report
from secure.equivariant.weights import read_directory

__all__ = [
    "LABEL",
    "Decoder",
    "Encoder",
    "Model",
    "Network",
    "Node",
    "Owner",
    "Probes",
    "Report",
    "Sealing",
    "SealingKey",
    "Silo",
    "attack",
    "from_torch",
    "read_directory",
    "unlock",
]
