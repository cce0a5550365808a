"""What is learnt: data, batches and evaluation of each experiment, the same for every variant."""

import numpy as np
import torch

from host.data import load_dataset, load_graph, load_text
from host.tensor_ids import Noise, tensor_id
from reports.accuracy import networks
from sim.model.noise import key, permutation

__all__ = ["Graph", "Images", "Text"]


def _order(seed, epoch, count):
    return permutation(key(seed, epoch, tensor_id(0, Noise.SHUFFLE)), count)


class Images:
    """Classification of images [n, 1, h, w], whole numbers scaled by a power of two."""

    def __init__(self, recipe, device="cpu"):
        data = load_dataset(recipe.data)
        if recipe.samples:
            data = data.limited(recipe.samples)
        size = int(data.features**0.5)
        scale = 2.0 ** -int(data.x_train.max()).bit_length()
        self.x, self.x_test = (
            torch.from_numpy(x.astype(np.float32)).mul_(scale).view(-1, 1, size, size).to(device)
            for x in (data.x_train, data.x_test))
        self.y, self.y_test = (torch.from_numpy(y).to(device)
                               for y in (data.y_train, data.y_test))
        self.classes, self.size = data.classes, size
        self.batch = recipe.batch
        self.steps_per_epoch = len(self.x) // recipe.batch

    def network(self, name, norm):
        """A network by name: ``resnet8``, ``resnet20`` or ``mlp``."""
        if name == "mlp":
            return networks.mlp(self.size**2, 64, self.classes, norm[0])
        return networks.ResNet((int(name.removeprefix("resnet")) - 2) // 6, 1, self.classes,
                               norm[1])

    def batches(self, seed, epoch):
        """The batches of an epoch; the last partial one is dropped."""
        order = torch.from_numpy(_order(seed, epoch, len(self.x))).to(self.x.device)
        for i in range(self.steps_per_epoch):
            index = order[i * self.batch:(i + 1) * self.batch]
            x = self.x[index].contiguous(memory_format=torch.channels_last)
            yield (x,), self.y[index]

    @staticmethod
    def logits(output):
        """[m, classes] of the model's output."""
        return output

    @torch.no_grad()
    def evaluate(self, model):
        """Percent of the test images that are recognised."""
        correct = sum(int((model(x).argmax(1) == y).sum())
                      for x, y in zip(self.x_test.split(500), self.y_test.split(500),
                                      strict=True))
        return {"accuracy": 100 * correct / len(self.x_test)}


class Text:
    """The next character of a text, in windows of ``context`` characters that do not overlap."""
    context = 64

    def __init__(self, recipe, device="cpu"):
        text, self.vocabulary = load_text(recipe.data)
        text = torch.from_numpy(text).to(device)
        cut = len(text) * 9 // 10
        self.train, test = text[:cut], text[cut:]
        count = (len(test) - 1) // self.context
        count = min(count, 512)
        self.x_test = test[:count * self.context].view(count, self.context)
        self.y_test = test[1:count * self.context + 1].view(count, self.context)
        self.batch = recipe.batch
        windows = min(recipe.samples, (len(self.train) - 1) // self.context)
        self.steps_per_epoch = windows // recipe.batch
        self.place = torch.arange(self.context, device=device).expand(1, -1)

    def network(self, name, norm):
        """A Transformer of 4 layers, 64 wide, 4 heads."""
        return networks.Transformer(self.vocabulary, self.context, 64, 4, 4)

    def batches(self, seed, epoch):
        """Windows in another order each epoch."""
        places = (len(self.train) - 1) // self.context
        order = torch.from_numpy(_order(seed, epoch, places)).to(self.train.device)
        for i in range(self.steps_per_epoch):
            start = order[i * self.batch:(i + 1) * self.batch] * self.context
            index = start[:, None] + self.place
            yield (self.train[index], self.place), self.train[index + 1].reshape(-1)

    @staticmethod
    def logits(output):
        """One row a character."""
        return output.reshape(-1, output.shape[-1])

    @torch.no_grad()
    def evaluate(self, model):
        """Top-1 accuracy in percent, and bits per character."""
        correct, nats, count = 0, 0.0, self.y_test.numel()
        for x, y in zip(self.x_test.split(32), self.y_test.split(32), strict=True):
            logits = self.logits(model(x, self.place)).double()
            correct += int((logits.argmax(1) == y.reshape(-1)).sum())
            nats += float(torch.nn.functional.cross_entropy(logits, y.reshape(-1),
                                                            reduction="sum"))
        return {"accuracy": 100 * correct / count, "bits": nats / count / float(np.log(2))}


class Graph:
    """Classes of a citation graph's nodes from 140 labels; one step an epoch."""
    steps_per_epoch = 1

    def __init__(self, recipe, device="cpu"):
        x, labels, edges, (train, _, test) = load_graph(recipe.data)
        n = len(x)
        self.x = torch.from_numpy(x.astype(np.float32)).to(device)
        self.labels, self.train, self.test = (
            torch.from_numpy(a).to(device) for a in (labels, train, test))
        edges = np.concatenate([edges, edges[:, ::-1], np.arange(n)[:, None].repeat(2, 1)])
        row, column = np.unique(edges, axis=0).T
        degree = np.bincount(row, minlength=n)
        value = 1 / np.sqrt(degree[row] * degree[column])
        self.adjacency = torch.sparse_coo_tensor(
            np.stack([row, column]), value.astype(np.float32), (n, n),
            check_invariants=True).coalesce()

    def network(self, name, norm):
        """Two graph convolutions with 16 hidden channels."""
        return networks.Gcn(self.adjacency, self.x.shape[1], 16, int(self.labels.max()) + 1)

    def batches(self, seed, epoch):
        """All nodes."""
        yield (self.x,), self.labels[self.train]

    def logits(self, output):
        """Those of the labelled nodes."""
        return output[self.train]

    @torch.no_grad()
    def evaluate(self, model):
        """Percent of the 1,000 test nodes that are recognised."""
        predicted = model(self.x)[self.test].argmax(1)
        return {"accuracy": 100 * int((predicted == self.labels[self.test]).sum())
                / len(self.test)}
