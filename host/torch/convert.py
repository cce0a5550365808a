"""From a ``torch.nn`` model to one with the device's arithmetic."""

import copy
import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

from host.torch import modules, reference
from host.torch.errors import (
    ConversionError,
    LimitError,
    check_between,
    check_bits,
    check_groups,
    check_number,
    check_seed,
    check_state,
)
from host.torch.functions import fixed
from sim.model.update import MASTER_BITS, MASTER_FRACTION

__all__ = ["convert"]

#: Calls that only move values, or compare them.
_MOVES = {torch.flatten, operator.getitem, "view", "reshape", "flatten", "permute", "transpose",
          "contiguous", "unsqueeze", "squeeze"}
_ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RELUS = {F.relu, torch.relu, F.relu_, torch.relu_, "relu", "relu_"}
#: Calls that give numbers, not tensors.
_NUMBERS = {"size", "dim", getattr}
#: What to write where the device has no twin.
_INSTEAD = {
    nn.MultiheadAttention: "write Linear layers for q, k, v and the output around a "
                           "host.torch.reference.Attention",
    nn.TransformerEncoderLayer: "write Linear layers, LayerNorm and ReLU around a "
                                "host.torch.reference.Attention",
    nn.TransformerDecoderLayer: "write Linear layers, LayerNorm and ReLU around a "
                                "host.torch.reference.Attention",
}
_INSTEAD[nn.TransformerEncoder] = _INSTEAD[nn.TransformerEncoderLayer]
_INSTEAD[nn.TransformerDecoder] = _INSTEAD[nn.TransformerDecoderLayer]
_INSTEAD[nn.Transformer] = _INSTEAD[nn.TransformerEncoderLayer]
#: What keeps a value from being negative if it was none before.
_KEEPS_SIGN = (nn.Flatten, nn.Identity, nn.MaxPool2d, modules.AvgPool2d, modules.GlobalAvgPool2d,
               modules.Dropout)


#: What has a twin.
_CONVERTED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.Embedding,
              nn.Dropout, nn.AvgPool2d, nn.AdaptiveAvgPool2d, reference.L1BatchNorm1d,
              reference.L1BatchNorm2d, reference.L1LayerNorm, reference.Attention,
              reference.GraphConv)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        ours = type(module).__module__.startswith("host.torch")
        return ours or super().is_leaf_module(module, name)


def _pair(value, what, name):
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if pair[0] != pair[1]:
        raise ConversionError(f"{name} must have a square {what}, got {pair}")
    return pair[0]


class _Converter:
    def __init__(self, options):
        self._options = options

    def weighted(self, name, module, *, signed, first, last, accumulators):
        """The twin of a Linear or Conv2d."""
        o = self._options
        bits = o["last_bits"] if last else o["first_layer_bits"] if first else o["bits"]
        common = {
            "bits": bits, "groups": o["groups"], "gradient_bits": o["gradient_bits"],
            "input_bits": o["first_bits"] if first else bits, "signed": signed,
            "clip": o["first_clip"] if first and o["first_clip"] is not None else o["clip"],
            "weight_clip": o["clip"],
            "accumulators": accumulators, "bias": module.bias is not None}
        if isinstance(module, nn.Linear):
            return modules.Linear(module.in_features, module.out_features, **common)
        if module.groups != 1 or _pair(module.dilation, "dilation", name) != 1:
            raise ConversionError(f"{name} must have groups=1 and dilation=1, got "
                                  f"groups={module.groups} and dilation={module.dilation}")
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ConversionError(f"{name} must have a number of zeros as padding, got "
                                  f"{module.padding!r} of {module.padding_mode}")
        return modules.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size,
            _pair(module.stride, "stride", name), _pair(module.padding, "padding", name), **common)

    def other(self, name, module, signed, last):
        """The twin of any other module; ``last``: behind the last layer with weights."""
        o = self._options
        quantised = {"bits": o["last_bits"] if last else o["bits"], "groups": o["groups"],
                     "gradient_bits": o["gradient_bits"]}
        match module:
            case nn.ReLU() | nn.Identity() | nn.Flatten():
                return module
            case nn.BatchNorm1d() | nn.BatchNorm2d() if not (
                    module.affine and module.track_running_stats):
                raise ConversionError(
                    f"{name} must have affine=True and track_running_stats=True, got "
                    f"affine={module.affine} and "
                    f"track_running_stats={module.track_running_stats}")
            case nn.LayerNorm() if (module.weight is None or module.bias is None
                                    or len(module.normalized_shape) != 1):
                raise ConversionError(
                    f"{name} must normalise the last axis alone with a weight and a bias, got "
                    f"normalized_shape={tuple(module.normalized_shape)}, "
                    f"elementwise_affine={module.elementwise_affine}, "
                    f"bias={module.bias is not None}")
            case nn.Embedding() if (module.padding_idx is not None or module.max_norm is not None
                                    or module.scale_grad_by_freq):
                raise ConversionError(
                    f"{name} must have padding_idx=None, max_norm=None and "
                    f"scale_grad_by_freq=False, got padding_idx={module.padding_idx}, "
                    f"max_norm={module.max_norm} and "
                    f"scale_grad_by_freq={module.scale_grad_by_freq}")
            case nn.AvgPool2d() if module.ceil_mode or module.divisor_override is not None:
                raise ConversionError(
                    f"{name} must have ceil_mode=False and divisor_override=None, got "
                    f"ceil_mode={module.ceil_mode} and "
                    f"divisor_override={module.divisor_override}")
            case nn.BatchNorm2d() | reference.L1BatchNorm2d():
                return modules.L1BatchNorm2d(module.weight.numel())
            case nn.BatchNorm1d() | reference.L1BatchNorm1d():
                return modules.L1BatchNorm1d(module.weight.numel())
            case nn.LayerNorm() | reference.L1LayerNorm():
                return modules.L1LayerNorm(module.weight.numel())
            case nn.Embedding():
                return modules.Embedding(module.num_embeddings, module.embedding_dim)
            case nn.Dropout():
                if module.p != 0.5:
                    raise ConversionError(f"{name} must drop with probability 0.5, got {module.p}")
                return modules.Dropout()
            case nn.AdaptiveAvgPool2d():
                if module.output_size not in (1, (1, 1)):
                    raise ConversionError(f"{name} must average to one position, "
                                          f"got output_size={module.output_size}")
                return modules.GlobalAvgPool2d()
            case nn.AvgPool2d() | nn.MaxPool2d():
                if module.padding or module.stride != module.kernel_size:
                    raise ConversionError(
                        f"{name} must have windows that do not overlap and no padding, got "
                        f"kernel_size={module.kernel_size}, stride={module.stride}, "
                        f"padding={module.padding}")
                return (modules.AvgPool2d(module.kernel_size) if isinstance(module, nn.AvgPool2d)
                        else module)
            case reference.Attention():
                return modules.Attention(module.heads, causal=module.causal, **quantised)
            case reference.GraphConv():
                return modules.GraphConv(module.adjacency, signed=signed, **quantised)
            case modules.Layer() | modules.Fork():
                return module
        instead = _INSTEAD.get(type(module), (
            "use Linear, Conv2d, BatchNorm, LayerNorm, ReLU, Dropout(0.5), average or max "
            "pooling, Embedding, or the layers of host.torch"))
        raise ConversionError(
            f"{name} is a {type(module).__name__}, which the device has not: {instead}")


def _check_values(path, source):
    """Refuse parameters and statistics that the device could not hold."""
    check_state({f"{path}.{name}": value for name, value in source.named_parameters()})
    for name in ("running_mean", "running_var", "running_deviation"):
        if (value := getattr(source, name, None)) is not None:
            check_between(f"{path}.{name}", value, 2.0**30 if name == "running_var" else 2.0**15)
            if name != "running_mean" and (value < 0).any():
                raise LimitError(f"{path}.{name} must not be negative, got {float(value.min()):g}")


def _copy_state(source, target):
    """Parameters and statistics, rounded to the formats of the device."""
    with torch.no_grad():
        for name, value in target.named_parameters(recurse=False):
            value.copy_(fixed(getattr(source, name), MASTER_FRACTION, MASTER_BITS))
    l2 = isinstance(source, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm)
    if l2 and source.weight is not None:
        # The mean deviation of Gaussian values is sqrt(2 / pi) of the root mean square.
        with torch.no_grad():
            target.weight.copy_(fixed(source.weight * (2 / torch.pi) ** 0.5, MASTER_FRACTION,
                                      MASTER_BITS))
    if isinstance(source, reference.L1BatchNorm1d | reference.L1BatchNorm2d):
        target.running_mean.copy_(source.running_mean)
        target.running_deviation.copy_(source.running_deviation)
        target.step = int(source.step)
    elif isinstance(source, nn.BatchNorm1d | nn.BatchNorm2d):
        target.running_mean.copy_(source.running_mean)
        target.running_deviation.copy_((source.running_var * 2 / torch.pi).sqrt())
        target.step = int(source.num_batches_tracked)


def _inputs(node):
    """The values that a call takes, lists of numbers aside."""
    return [a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)]


def _is_number(node):
    """Whether a node is a number, such as an axis's size, and no tensor."""
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    return node.target in _NUMBERS or (bool(_inputs(node)) and all(
        _is_number(a) for a in _inputs(node)))


def _check_sum(node):
    """Refuse sums that the device has not: it adds outputs of layers, and nothing scaled."""
    if _is_number(node):
        return
    terms = [*node.args, *(a for name, a in node.kwargs.items() if name != "alpha")]
    # Python's own sum begins with a 0, which changes nothing.
    constants = [a for a in terms if not isinstance(a, fx.Node) and a != 0]
    constants += [a for a in _inputs(node) if a.op == "get_attr" or _is_number(a)]
    if node.kwargs.get("alpha", 1) != 1:
        raise ConversionError(f"the sum at {node.name} has alpha={node.kwargs['alpha']}, which the "
                              "device has not: scale the weights of the layer before")
    if constants:
        raise ConversionError(f"the sum at {node.name} adds a constant, {constants[0]}, but the "
                              "device adds outputs of layers alone: put it into the bias of a "
                              "layer")


def _check_model(model):
    """Refuse what cannot be converted as a whole."""
    if not isinstance(model, nn.Module):
        raise ConversionError(f"convert takes a torch.nn.Module, got {type(model).__name__}")
    parts = list(model.modules())
    ours = [m for m in parts if isinstance(m, modules.Layer)]
    if ours and not any(isinstance(m, _CONVERTED) for m in parts):
        raise ConversionError(f"{type(model).__name__} has the layers of host.torch already: "
                              "convert the float model that it was made from, or call "
                              "host.torch.number_layers to set a seed")
    owners = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}".lstrip(".")
            if parameter in owners:
                raise ConversionError(f"{full} and {owners[parameter]} are one tensor, which the "
                                      "device has not: give each layer weights of its own")
            owners[parameter] = full


def _check_options(o):
    """Refuse widths and clips that the device has not, whether a layer uses them or not."""
    for name in ("bits", "last_bits"):
        check_bits(name, o[name])
    for name in ("first_bits", "first_layer_bits", "gradient_bits"):
        if o[name] not in (None, "bits"):
            check_bits(name, o[name])
    for name in ("clip", "first_clip"):
        if o[name] is not None:
            check_number(name, o[name], 0, 255)
    check_groups(o["groups"])


def _not_negative(node, modules_by_name, known):
    if node.op == "call_module":
        module = modules_by_name[node.target]
        return isinstance(module, nn.ReLU) or (
            isinstance(module, _KEEPS_SIGN) and node.args[0] in known)
    if node.op in ("call_function", "call_method"):
        inputs = _inputs(node)
        if node.target in _RELUS:
            return True
        return node.target in _MOVES | _ADDS and all(a in known for a in inputs)
    return False


def convert(model, bits=4, groups=4, *, gradient_bits="bits", first_bits=8, last_bits=8,
            first_layer_bits=None, clip=None, first_clip=None, signed_input=False, seed=0):
    """A copy of a ``torch.nn`` model with the device's arithmetic.

    The model must be traceable by ``torch.fx``; where a value is used twice, a
    :class:`~host.torch.modules.Fork` adds the gradients as the device does.

    Parameters
    ----------
    bits : int
        Width of weights, activations and gradients, 2..8.
    groups : int or (int, int)
        Gradient groups: channels alone, or samples x channels; an int g means g x g.
    gradient_bits : int or None
        Another width for gradients; None leaves them in float.
    first_bits, last_bits : int
        Width of the first layer's input, and of the last layer's weights and input; a sum over
        neighbours behind the last weights belongs to the last layer.
    first_layer_bits : int or None
        Width of the first layer's weights and gradients; None: ``bits``.
    clip : int or None
        Largest range of activations and weights in quarters of their mean magnitude; 0 for the
        maximum, as heavy-tailed data need at 6 bits and more; None: by width.
    first_clip : int or None
        The same for the first layer's input alone; 0 for sparse inputs.
    signed_input : bool
        The model's input may be negative.
    seed : int
        Decides all rounding; parameters are the model's own.

    Raises
    ------
    ConversionError
        A module or function that the device has not, by name.
    FormatError
        A width, a clip, groups or a seed out of range.
    LimitError
        A weight or statistic that is not finite or too large, by name.
    """
    options = {"bits": bits, "groups": (groups, groups) if isinstance(groups, int) else groups,
               "gradient_bits": gradient_bits, "first_bits": first_bits, "last_bits": last_bits,
               "first_layer_bits": bits if first_layer_bits is None else first_layer_bits,
               "clip": clip, "first_clip": first_clip}
    _check_options(options)
    check_seed(seed)
    _check_model(model)
    model = copy.deepcopy(model)
    tracer = _Tracer()
    if tracer.is_leaf_module(model, ""):
        model = nn.Sequential(model)
    try:
        graph = tracer.trace(model)
    except ConversionError:
        raise
    except Exception as error:
        raise ConversionError(f"torch.fx cannot trace {type(model).__name__}: "
                              f"{str(error).splitlines()[0]}") from error
    result = fx.GraphModule(model, graph)
    by_name = dict(result.named_modules())
    converter = _Converter(options)
    weighted = [n for n in graph.nodes if n.op == "call_module"
                and isinstance(by_name[n.target], nn.Linear | nn.Conv2d)]
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, reference.L1BatchNorm1d, reference.L1BatchNorm2d)
    known, behind = set(), False
    for node in list(graph.nodes):
        if node.op == "placeholder" and not signed_input:
            known.add(node)
        elif node.op == "call_module":
            source = by_name[node.target]
            signed = not all(a in known for a in _inputs(node))
            if isinstance(source, nn.Linear | nn.Conv2d):
                users = list(node.users)
                into_norm = (source.bias is None and len(users) == 1
                             and users[0].op == "call_module"
                             and isinstance(by_name[users[0].target], norms))
                target = converter.weighted(
                    node.target, source, signed=signed, first=node is weighted[0],
                    last=node is weighted[-1], accumulators=into_norm)
                behind = node is weighted[-1]
            else:
                target = converter.other(node.target, source, signed, behind)
            if target is not source:
                _check_values(node.target, source)
                _copy_state(source, target)
                result.set_submodule(node.target, target)
                by_name[node.target] = target
        elif node.op in ("call_function", "call_method"):
            _convert_call(result, node, by_name, known)
        if node.op != "placeholder" and _not_negative(node, by_name, known):
            known.add(node)
    _insert_forks(result)
    result.delete_all_unused_submodules()
    result.recompile()
    result.train(model.training)
    # Refused as a whole, before the first layer has taken up anything.
    result._register_load_state_dict_pre_hook(check_state)
    return modules.number_layers(result, seed)


def _convert_call(result, node, by_name, known):
    if node.target in _ADDS:
        _check_sum(node)
    if node.target in _MOVES | _ADDS | _RELUS | _NUMBERS:
        return
    name = getattr(node.target, "__name__", str(node.target))
    pooled = {"adaptive_avg_pool2d": lambda a: a in (1, (1, 1)),
              "mean": lambda a: a in ((2, 3), [2, 3], (-2, -1), [-2, -1])}
    if name in pooled and len(node.args) > 1 and pooled[name](node.args[1]):
        new = f"{node.name}_pool"
        result.add_submodule(new, modules.GlobalAvgPool2d())
        by_name[new] = result.get_submodule(new)
        keep = name != "mean" or node.kwargs.get("keepdim", False)
        with result.graph.inserting_before(node):
            pool = result.graph.call_module(new, (node.args[0],))
            new_nodes = [pool]
            if not keep:
                pool = result.graph.call_function(torch.flatten, (pool, 1))
                new_nodes.append(pool)
        if node.args[0] in known:
            known.update(new_nodes)
        node.replace_all_uses_with(pool)
        result.graph.erase_node(node)
        return
    raise ConversionError(f"the call of {name} at {node.name} has no twin on the device: use "
                          "ReLU, sums, average pooling and reshaping")


def _insert_forks(result):
    """A Fork where a value that gradients reach is used more than once."""
    numbers = {n for n in result.graph.nodes
               if n.op in ("call_function", "call_method") and n.target in _NUMBERS}
    for node in list(result.graph.nodes):
        if node.op in ("placeholder", "get_attr", "output") or node in numbers:
            continue
        uses = [user for user in node.users if user not in numbers
                for argument in user.all_input_nodes if argument is node]
        repeated = [user for user in uses if list(user.args).count(node) > 1]
        if repeated:
            raise ConversionError(f"{repeated[0].name} uses {node.name} twice: give it a Fork of "
                                  "host.torch")
        if len(uses) < 2:
            continue
        name = f"{node.name}_fork".replace(".", "_")
        result.add_submodule(name, modules.Fork(len(uses)))
        with result.graph.inserting_after(node):
            fork = result.graph.call_module(name, (node,))
        before = fork
        for i, user in enumerate(uses):
            with result.graph.inserting_after(before):
                branch = before = result.graph.call_function(operator.getitem, (fork, i))
            user.replace_input_with(node, branch)
