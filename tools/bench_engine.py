"""Time and memory of the torch engine beside the same networks written as torch.nn modules.

    python tools/bench_engine.py [--seconds 6] [--threads 1]

ResNet-20 (32 x 32) and MobileNetV2 (224 x 224), each also with BatchNormalization folded, are exported to ONNX and
lowered, with fixed and with free shapes. Forward without gradients, and forward with backward to the input and to all
parameters, run in turn in one process: the module, the module with in-place activations as model zoos have it, the
engine. Printed are median and quartiles of the ratios to the module, turn by turn, and the ratio of the most memory
held, parameters and input not counted. On the CPU, and on CUDA where torch has it.
"""

import argparse
import copy
import io
import os
import statistics
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler, which tells the memory, is chatty

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from onnxdfq.engine.lower import lower

BATCHES = {"ResNet-20": (1, 16), "MobileNetV2": (1, 4)}
SIDES = {"ResNet-20": 32, "MobileNetV2": 224}
Step = Callable[[nn.Module, Tensor], None]


class Convolution(nn.Sequential):
    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act] if act else []))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = Convolution(inputs, outputs, 3, stride, act=nn.ReLU())
        self.second = Convolution(outputs, outputs, 3)
        self.shortcut = nn.Identity() if inputs == outputs else Convolution(inputs, outputs, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.second(self.first(x)) + self.shortcut(x))
        return y


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inputs * widen
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([Convolution(inputs, wide, 1, act=nn.ReLU6())] if widen > 1 else []),
            Convolution(wide, wide, 3, stride, wide, act=nn.ReLU6()),
            Convolution(wide, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


def resnet20() -> nn.Sequential:
    layers: list[nn.Module] = [Convolution(3, 16, 3, act=nn.ReLU())]
    width = 16
    for outputs, stride in ((16, 1), (16, 1), (16, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)):
        layers.append(BasicBlock(width, outputs, stride))
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def mobilenet_v2() -> nn.Sequential:
    layers: list[nn.Module] = [Convolution(3, 32, 3, 2, act=nn.ReLU6())]
    width = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for widen, outputs, blocks, stride in stages:
        for block in range(blocks):
            layers.append(InvertedResidual(width, outputs, stride if block == 0 else 1, widen))
            width = outputs
    head = (Convolution(width, 1280, 1, act=nn.ReLU6()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))
    return nn.Sequential(*layers, *head)


def trained_like(network: nn.Module) -> nn.Module:
    """In inference mode; statistics differ from layer to layer, as the exporter would share equal ones."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in ((layer.weight, 0.5, 1.5), (layer.bias, -0.2, 0.2)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network.eval()


def folded(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, Convolution):
            layer[0], layer[1] = fuse_conv_bn_eval(layer[0], layer[1]), nn.Identity()
    return network.requires_grad_()


def in_place(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for layer in network.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = True
    return network


def exported(network: nn.Module, x: Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    torch.onnx.export(
        network, (x,), file, dynamo=False, opset_version=17, input_names=["x"],
        dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}},
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,  # else BatchNormalization is folded
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def forward(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def forward_backward(module: nn.Module, x: Tensor) -> None:
    x = x.detach().requires_grad_()
    output = module(x)
    logits = output[0] if isinstance(output, tuple) else output
    torch.autograd.grad(logits.square().mean(), [x, *module.parameters()])


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times(step: Step, modules: list[nn.Module], x: Tensor, seconds: float) -> list[list[float]]:
    """Seconds of each module, turn by turn; every other turn runs backwards, so that no place is the better one."""
    measured: list[list[float]] = [[] for _ in modules]
    for module in modules * 2:
        step(module, x)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or len(measured[0]) < 5:
        turn = list(zip(modules, measured, strict=True))
        for module, into in turn if len(measured[0]) % 2 else reversed(turn):
            finish(x.device)
            started = time.perf_counter()
            step(module, x)
            finish(x.device)
            into.append(time.perf_counter() - started)
    return measured


def peak(step: Step, module: nn.Module, x: Tensor) -> int:
    """The most bytes that one step holds at once, beyond what was there before."""
    if x.device.type == "cuda":
        before = torch.cuda.memory_allocated(x.device)
        torch.cuda.reset_peak_memory_stats(x.device)
        step(module, x)
        finish(x.device)
        return torch.cuda.max_memory_allocated(x.device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(module, x)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def compare(name: str, network: nn.Module, device: torch.device, seconds: float) -> None:
    for batch in BATCHES[name.split(",")[0]]:
        x = torch.randn(batch, 3, SIDES[name.split(",")[0]], SIDES[name.split(",")[0]])
        model = exported(network, x)
        fixed, free = lower(model, input_shapes={"x": tuple(x.shape)}), lower(model)
        x = x.to(device)
        others = {"module, in-place": in_place(network), "engine, fixed shapes": fixed, "engine, free shapes": free}
        modules = [module.to(device) for module in (network, *others.values())]
        torch.testing.assert_close(fixed(x)[0], network(x), rtol=1e-3, atol=1e-3)
        for step in (forward, forward_backward):
            measured = times(step, modules, x, seconds)
            peaks = [peak(step, module, x) for module in modules]
            title = f"{device.type} {name}, batch {batch}, {step.__name__.replace('_', ' + ')}"
            plain = f"{1000 * statistics.median(measured[0]):8.1f} ms {peaks[0] / 2**20:7.1f} MB"
            print(f"{title}: module {plain}, {len(measured[0])} turns", flush=True)
            for label, own, memory in zip(others, measured[1:], peaks[1:], strict=True):
                ratios = [one / base for one, base in zip(own, measured[0], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                print(f"    {label:22} time {middle:.3f} [{low:.3f} {high:.3f}]  memory {memory / peaks[0]:.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6, help="for each comparison (default 6)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default 1)")
    parsed = parser.parse_args()
    warnings.filterwarnings("ignore")  # the exporter's, that there is a newer one
    torch.set_num_threads(parsed.threads)
    torch.manual_seed(0)
    for device in map(torch.device, ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        for name, make in (("ResNet-20", resnet20), ("MobileNetV2", mobilenet_v2)):
            network = trained_like(make())
            compare(name, network, device, parsed.seconds)
            compare(f"{name}, folded", folded(network), device, parsed.seconds)


if __name__ == "__main__":
    main()
