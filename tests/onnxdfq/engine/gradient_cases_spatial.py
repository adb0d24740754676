"""Those of the gradient cases whose inputs are images: convolution, pooling, normalization, resizing, sampling."""

from __future__ import annotations

import numpy as np

from tests.onnxdfq.engine.gradient_nodes import case, r, within

CONVOLUTION = [
    case("Conv-11", r(2, 2, 5), r(3, 2, 3), r(3), pads=[1, 1]),
    case("Conv-11", r(1, 4, 4, 3), r(2, 2, 2, 2), r(2), group=2, dilations=[2, 1], strides=[1, 2]),
    case("Conv-11", r(1, 2, 4, 3), r(2, 1, 3, 2), group=2, pads=[1, 0, 1, 0]),
    case("Conv-11", r(1, 2, 4, 3), r(2, 2, 3, 2), pads=[0, 1, 2, 0], kernel_shape=[3, 2]),
    *(
        case("Conv-11", r(1, 2, 4, 3), r(2, 2, 2, 3), r(2), auto_pad=auto_pad, strides=[2, 1])
        for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    case("Conv-22", r(1, 1, 3, 2, 3), r(2, 1, 2, 2, 2), r(2), pads=[0, 0, 1, 1, 0, 0]),
    case("ConvTranspose-11", r(1, 2, 4), r(2, 2, 3), r(2), strides=[2]),
    case("ConvTranspose-11", r(1, 4, 2, 3), r(4, 1, 2, 3), r(2), group=2, strides=[2, 1], pads=[1, 1, 1, 1]),
    case("ConvTranspose-11", r(1, 2, 2, 3), r(2, 1, 2, 2), strides=[2, 3], output_padding=[1, 2]),
    case("ConvTranspose-11", r(1, 2, 2, 3), r(2, 1, 3, 2), strides=[2, 2], pads=[0, 1, 2, 0]),
    case("ConvTranspose-11", r(1, 2, 2, 3), r(2, 2, 2, 2), dilations=[2, 1]),
    case("ConvTranspose-11", r(1, 2, 2, 3), r(2, 1, 3, 2), strides=[2, 2], output_shape=[4, 5]),
    *(
        case("ConvTranspose-22", r(1, 2, 2, 3), r(2, 1, 3, 2), r(1), auto_pad=auto_pad, strides=[2, 1])
        for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    case("ConvTranspose-22", r(1, 1, 2, 2, 2), r(1, 2, 2, 2, 1), r(2), strides=[1, 2, 1]),
    case("CausalConvWithState-27", r(1, 2, 3), r(2, 1, 3), r(2), r(1, 2, 2), outputs=2),
    case("CausalConvWithState-27", r(1, 2, 3), r(2, 1, 2), activation="silu"),
    case("ConvInteger-10", r(1, 2, 3, 3), r(2, 2, 2, 2), np.uint8(3), np.array([1, -2], np.int8), pads=[1, 1, 0, 0]),
]

POOLING = [
    *(
        case(f"{op}-22", r(*shape), kernel_shape=kernel, **options)
        for op in ("MaxPool", "AveragePool", "LpPool")
        for shape, kernel, options in (
            ((1, 2, 6), [3], {"strides": [2]}),
            ((1, 1, 5, 4), [3, 3], {"strides": [2, 2], "ceil_mode": 1}),
            ((1, 1, 4, 4), [3, 2], {"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1}),
            ((1, 2, 4, 3), [3, 2], {"pads": [0, 0, 2, 1]}),
            ((1, 1, 5, 4), [2, 2], {"dilations": [2, 3]}),
            ((1, 1, 5, 4), [2, 3], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
            ((1, 1, 5, 4), [2, 3], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
            ((1, 1, 5, 4), [2, 3], {"auto_pad": "VALID"}),
            ((1, 1, 3, 4, 3), [2, 3, 2], {"strides": [1, 1, 1]}),
        )
    ),
    case("MaxPool-8", r(1, 2, 4, 3), kernel_shape=[3, 2], pads=[1, 0, 0, 1], outputs=2),
    case("MaxPool-12", r(1, 2, 4, 3), kernel_shape=[2, 2], storage_order=1, outputs=2),
    case("AveragePool-7", r(1, 1, 4, 3), kernel_shape=[3, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool-19", r(1, 1, 4, 3), kernel_shape=[3, 2], pads=[0, 0, 2, 1], count_include_pad=1, ceil_mode=1),
    case("AveragePool-19", r(1, 1, 5, 4), kernel_shape=[2, 2], dilations=[2, 1], pads=[1, 1, 1, 1]),
    case("LpPool-18", r(1, 1, 4, 3), kernel_shape=[2, 2], p=1),
    case("LpPool-18", r(1, 1, 4, 3), kernel_shape=[2, 2], p=3, pads=[1, 0, 1, 0]),
    *(
        case(f"Global{op}-22", r(*shape))
        for op in ("AveragePool", "MaxPool", "LpPool")
        for shape in ((2, 2, 3), (1, 2, 3, 2), (1, 2, 2, 2, 2))
    ),
    case("GlobalLpPool-2", r(1, 2, 3, 2), p=1),
    case("GlobalLpPool-22", r(1, 2, 3, 2), p=3),
]

UNPOOLING = [
    case("MaxUnpool-22", r(1, 1, 2, 2), [[[[1, 3], [10, 12]]]], kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxUnpool-11", r(1, 2, 2), [[[1, 3], [5, 6]]], [1, 2, 5], kernel_shape=[2], strides=[2]),
    case("Col2Im-18", r(1, 4, 6), [3, 4], [2, 2]),
    case("Col2Im-18", r(1, 4, 9), [3, 4], [2, 2], dilations=[1, 2], pads=[0, 1, 1, 0], strides=[1, 1]),
]

SPREAD = [0.3, 1.4]
NORMALIZATION = [
    case("BatchNormalization-9", r(2, 2, 3, 2), r(2), r(2), [0.1, -0.3], SPREAD, epsilon=1e-3),
    case("BatchNormalization-15", r(3, 2), r(2), r(2), [0.1, -0.3], SPREAD),
    case("BatchNormalization-7", r(2, 2, 1), r(2, 1), r(2, 1), [[0.1], [-0.3]], [[0.3], [1.4]], spatial=0),
    case("InstanceNormalization-22", r(2, 2, 4), r(2), r(2)),
    case("InstanceNormalization-6", r(1, 2, 3, 2), r(2), r(2), epsilon=1e-2),
    case("GroupNormalization-18", r(2, 4, 3), r(2), r(2), num_groups=2),
    case("GroupNormalization-21", r(1, 4, 2, 2), r(4), r(4), num_groups=2, epsilon=1e-2),
    case("LayerNormalization-17", r(2, 4), r(4), r(4)),
    case("LayerNormalization-17", r(2, 2, 3), r(2, 3), axis=1, epsilon=1e-2),
    case("LayerNormalization-17", r(2, 2, 3), r(3), r(3), axis=1),
    case("LayerNormalization-17", r(2, 2, 3), r(2, 3), r(2, 3), axis=-2, outputs=3),
    case("LayerNormalization-17", r(2, 2, 3), r(3), outputs=2),
    case("RMSNormalization-23", r(2, 2, 3), r(3)),
    case("RMSNormalization-23", r(2, 2, 3), r(2, 1), axis=1, epsilon=1e-2),
    *(case("LpNormalization-22", r(2, 3, 2), axis=axis, p=p) for axis in (-1, 1) for p in (1, 2)),
    case("MeanVarianceNormalization-13", r(2, 2, 2, 2)),
    case("MeanVarianceNormalization-9", r(2, 2, 3), axes=[0, 2]),
    case("LRN-13", r(1, 5, 2), size=3, alpha=0.5),
    case("LRN-13", r(1, 4, 2), size=2, alpha=0.5, beta=0.6, bias=1.5),
]

HALF = "half_pixel"
RULES = (HALF, f"{HALF}_symmetric", f"pytorch_{HALF}", "align_corners", "asymmetric")
RESIZE = [
    *(
        case("Resize-19", r(1, 1, 4, 3), None, scales, mode=mode, coordinate_transformation_mode=rule)
        for scales in ([1, 1, 1.5, 0.7], [1, 1, 1.5, 2])
        for mode in ("linear", "cubic")
        for rule in RULES
    ),
    *(
        case("Resize-13", r(1, 1, 4, 3), None, [1, 1, 1.5, 0.7], nearest_mode=rule)
        for rule in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    case("Resize-11", r(1, 1, 4, 3), None, [1, 1, 1.5, 0.7], coordinate_transformation_mode=f"tf_{HALF}_for_nn"),
    *(
        case("Resize-11", r(1, 1, 4, 3), roi, [1, 1, 1.5, 2], mode=mode, coordinate_transformation_mode=rule)
        for rule, roi in [("tf_crop_and_resize", [0, 0, 0.2, -0.1, 1, 1, 0.8, 0.7])]
        for mode in ("nearest", "linear", "cubic")
    ),
    *(
        case("Resize-13", r(1, 1, *size), None, [1, 1, *(2 for _ in size)], mode=mode)
        for mode in ("nearest", "linear")
        for size in ((3,), (2, 3), (2, 1, 2))
    ),
    *(case("Resize-18", r(1, 1, 4, 3), None, [1, 1, 0.6, 1.5], mode=mode, antialias=1) for mode in ("linear", "cubic")),
    case("Resize-11", r(2, 1, 2, 3), None, None, [3, 1, 5, 2], mode="linear"),
    case("Resize-18", r(1, 2, 2, 3), None, None, [5, 4], mode="linear", axes=[3, 2]),
    *(
        case("Resize-18", r(1, 1, 2, 3), None, None, [5, 4], mode="cubic", axes=[2, 3], keep_aspect_ratio_policy=rule)
        for rule in ("not_larger", "not_smaller")
    ),
    case("Resize-13", r(1, 1, 4, 3), None, [1, 1, 1.5, 0.7], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    *(
        case(op, r(1, 1, 3, 2), [1, 1, 2, 1.5], mode=mode)
        for op in ("Resize-10", "Upsample-9")
        for mode in ("nearest", "linear")
    ),
    *(case("Upsample-7", r(1, 1, 3, 2), scales=[1.0, 1.0, 2.0, 1.5], mode=mode) for mode in ("nearest", "linear")),
]

GRID = within(-1.2, 1.2, 1, 2, 2, 2)
ROIS = within((0.1, 0.3, 2.1, 1.9), (0.8, 0.9, 3.7, 3.2), 2, 4)
PADDINGS = ("zeros", "border", "reflection")
SAMPLING = [
    *(
        case("GridSample-16", r(1, 1, 3, 2), GRID, mode=mode, padding_mode=padding)
        for mode in ("bilinear", "nearest", "bicubic")
        for padding in PADDINGS
    ),
    *(
        case("GridSample-22", r(2, 1, 4), within(-1.2, 1.2, 2, 2, 1), mode=mode, padding_mode=padding)
        for mode in ("linear", "nearest", "cubic")
        for padding in PADDINGS
    ),
    *(
        case("GridSample-22", r(1, 1, *size), within(-1.2, 1.2, 1, *out), padding_mode=padding, align_corners=1)
        for size, out in (((4,), (2, 1)), ((3, 2), (2, 1, 2)))
        for padding in PADDINGS
    ),
    *(
        case("GridSample-20", r(1, 1, 3, 2, 2), within(-1.2, 1.2, 1, 1, 2, 1, 3), mode=mode)
        for mode in ("linear", "nearest", "cubic")
    ),
    case("AffineGrid-20", r(1, 2, 3), [1, 1, 2, 3]),
    case("AffineGrid-20", r(1, 3, 4), [1, 1, 2, 2, 2], align_corners=1),
    case("DeformConv-22", r(1, 2, 3, 3), r(2, 2, 2, 2), within(-0.9, 0.9, 1, 8, 2, 2), r(2), r(1, 4, 2, 2)),
    case("DeformConv-19", r(1, 2, 3, 3), r(2, 1, 2, 2), r(1, 16, 2, 1), group=2, offset_group=2, strides=[1, 2]),
    case("DeformConv-22", r(1, 1, 3, 3), r(1, 1, 2, 2), r(1, 8, 2, 2), dilations=[2, 1], pads=[1, 0, 0, 0]),
    *(
        case(f"RoiAlign-{opset}", r(2, 1, 4, 4), ROIS, [1, 0], mode=mode, output_height=2, output_width=2, **options)
        for mode in ("avg", "max")
        for opset, options in (
            (10, {"sampling_ratio": 2}),
            (16, {"spatial_scale": 0.9}),
            (22, {"sampling_ratio": 1, "coordinate_transformation_mode": f"output_{HALF}"}),
        )
    ),
]

SPATIAL = [*CONVOLUTION, *POOLING, *UNPOOLING, *NORMALIZATION, *RESIZE, *SAMPLING]
