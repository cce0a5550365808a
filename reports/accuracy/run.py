"""One point of the study: one variant trained with one seed."""

import hashlib
import platform
import sys
import time

import numpy as np
import torch
from torch.nn import functional as F

import host.torch as shiftgrad
from host.torch import reference
from reports.accuracy import tasks
from reports.accuracy.ablations import changed
from reports.accuracy.networks import draw
from sim.model.update import MOMENTUM, MOMENTUM_SHIFT

__all__ = ["TASKS", "device_name", "run", "train"]

TASKS = {"images": tasks.Images, "text": tasks.Text, "graph": tasks.Graph}
_NORMS = {"l1": (reference.L1BatchNorm1d, reference.L1BatchNorm2d),
          "l2": (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)}


def device_name(device):
    """What runs call a device: a GPU by its product's name, a processor ``cpu``."""
    return torch.cuda.get_device_name(device) if device != "cpu" else "cpu"


def _optimiser(model, variant, recipe):
    momentum = MOMENTUM / 2**MOMENTUM_SHIFT
    if variant.bits is not None:
        return shiftgrad.SGD(model, recipe.rate, weight_decay=recipe.decay, momentum=momentum,
                             **variant.optimiser)
    # As in the device's optimiser, vectors do not decay.
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.SGD([{"params": matrices, "weight_decay": recipe.decay},
                            {"params": vectors, "weight_decay": 0.0}],
                           lr=recipe.rate, momentum=momentum)


def train(recipe, variant, seed, progress=lambda done, total: None, device="cpu",
          alter=lambda model: None):
    """``(model, task, losses)``: trained, in training mode; mean loss of every epoch."""
    task = TASKS[recipe.task](recipe, device)
    model = draw(task.network(recipe.network, _NORMS[variant.norm]), seed)
    loss_of = F.cross_entropy
    if variant.bits is not None:
        model = shiftgrad.convert(model, variant.bits, variant.groups, seed=seed,
                                  gradient_bits=variant.gradient_bits, **variant.conversion)
        loss_of = shiftgrad.cross_entropy
    elif recipe.task == "images":
        model = model.to(memory_format=torch.channels_last)
    model = model.to(device)
    alter(model)
    # The masks of float dropout; nothing else of the study draws from here.
    torch.manual_seed(seed)
    optimiser = _optimiser(model, variant, recipe)

    def objective(output, labels):
        return loss_of(task.logits(output), labels)
    total = recipe.epochs * task.steps_per_epoch
    losses, step = [], 0
    model.train()

    def step_once(*batch):
        *inputs, labels = batch
        loss = objective(model(*inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()
    if variant.bits is not None and device != "cpu":
        step_once = shiftgrad.CapturedStep(model, optimiser, objective)
    for epoch in range(recipe.epochs):
        seen = torch.zeros((), dtype=torch.float64, device=device)
        for inputs, labels in task.batches(seed, epoch):
            rate = recipe.rate_at(step, total)
            for group in optimiser.param_groups:
                group["lr"] = rate
            seen += step_once(*inputs, labels)
            step += 1
            progress(step, total)
        losses.append(float(seen) / task.steps_per_epoch)
    return model, task, losses


def _digest(model):
    """SHA-256 of the masters as int32, in the order of the parameters."""
    digest = hashlib.sha256()
    for k in shiftgrad.masters(model).values():
        digest.update(k.cpu().numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def run(recipe, variant, seed, progress=lambda done, total: None, device="cpu"):
    """Train and evaluate; a dict with accuracy, losses, and how they were made."""
    start = time.perf_counter()
    with changed(variant.change) as alter:
        model, task, losses = train(recipe, variant, seed, progress, device, alter)
        trained = time.perf_counter() - start
        model.eval()
        result = task.evaluate(model)
    if variant.bits is not None:
        result["weights_sha256"] = _digest(model)
    return {"seed": seed, **result, "losses": [round(value, 5) for value in losses],
            "steps": recipe.epochs * task.steps_per_epoch, "training_seconds": round(trained, 1),
            "seconds": round(time.perf_counter() - start, 1),
            "device": device_name(device),
            "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(), "platform": sys.platform}
