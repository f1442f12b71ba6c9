"""The attacks by name. They make suspects for tests, examples and benchmarks; nothing of the service uses them."""

from worker.algorithms.attacks.atteq_nn import atteq_nn
from worker.algorithms.attacks.badnets import badnets
from worker.algorithms.attacks.blended import blended
from worker.algorithms.attacks.class_specific import class_specific
from worker.algorithms.attacks.hidden_trigger import hidden_trigger
from worker.algorithms.attacks.ingrain import ingrain
from worker.algorithms.attacks.issba import issba
from worker.algorithms.attacks.robnet import robnet
from worker.algorithms.attacks.sig import sig
from worker.algorithms.attacks.trojan_nn import trojan_nn
from worker.algorithms.attacks.wanet import wanet

ATTACKS = {
    "badnets": badnets,
    "blended": blended,
    "wanet": wanet,
    "class_specific": class_specific,
    "robnet": robnet,
    "trojan_nn": trojan_nn,
    "sig": sig,
    "hidden_trigger": hidden_trigger,
    "atteq_nn": atteq_nn,
    "issba": issba,
    "ingrain": ingrain,
}

__all__ = ["ATTACKS"]
