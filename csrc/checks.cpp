#include "checks.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>

namespace dcls {
namespace {

constexpr std::array<std::string_view, 4> kVersions{"v0", "v1", "max", "gauss"};
constexpr std::array<std::string_view, 4> kMethods{"auto", "construct", "direct", "im2col"};
// The extents of kernels of one, two and three spatial axes, in words.
constexpr std::array<std::string_view, 3> kKernelAxes{"kernel_length", "kernel_height, kernel_width",
                                                      "kernel_depth, kernel_height, kernel_width"};

// No extent, stride or padding comes near; below it, their sums and products fit 64 bits.
constexpr int64_t kLimit = int64_t{1} << 31;

// STD_TORCH_CHECK would put the name of this file and a line number before the message.
template <typename... Parts>
[[noreturn]] void fail(std::string_view op, const Parts&... parts) {
    std::ostringstream message;
    message << "dcls::" << op << ": ";
    (message << ... << parts);
    throw std::runtime_error(message.str());
}

template <typename... Parts>
void check(bool condition, std::string_view op, const Parts&... parts) {
    if (!condition) {
        fail(op, parts...);
    }
}

// A tuple of ints as Python writes it.
std::string tuple(const IntList& values) {
    std::ostringstream out;
    out << '(';
    for (size_t i = 0; i < values.size(); ++i) {
        out << (i == 0 ? "" : ", ") << values[i];
    }
    out << (values.size() == 1 ? ",)" : ")");
    return out.str();
}

std::string shape(const Tensor& tensor) { return tuple(sizes(tensor)); }

template <size_t n>
std::string join(const std::array<std::string_view, n>& names) {
    std::string out;
    for (const auto name : names) {
        out.append(out.empty() ? "" : ", ").append(name);
    }
    return out;
}

// A torch.dtype as Python writes it.
std::string dtype_name(ScalarType dtype) {
    switch (dtype) {
        case ScalarType::Float:
            return "torch.float32";
        case ScalarType::Double:
            return "torch.float64";
        case ScalarType::Half:
            return "torch.float16";
        case ScalarType::BFloat16:
            return "torch.bfloat16";
        case ScalarType::Byte:
            return "torch.uint8";
        case ScalarType::Char:
            return "torch.int8";
        case ScalarType::Short:
            return "torch.int16";
        case ScalarType::Int:
            return "torch.int32";
        case ScalarType::Long:
            return "torch.int64";
        case ScalarType::Bool:
            return "torch.bool";
        case ScalarType::ComplexHalf:
            return "torch.complex32";
        case ScalarType::ComplexFloat:
            return "torch.complex64";
        case ScalarType::ComplexDouble:
            return "torch.complex128";
        default:
            return toString(dtype);
    }
}

// A torch.device as Python writes it; a kernel only ever sees these two.
std::string device_name(const Tensor& tensor) {
    return tensor.is_cpu() ? "cpu" : "cuda:" + std::to_string(tensor.get_device_index());
}

bool same_device(const Tensor& a, const Tensor& b) {
    return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

bool is_half(ScalarType dtype) { return dtype == ScalarType::Half || dtype == ScalarType::BFloat16; }

bool is_supported(ScalarType dtype) {
    return is_half(dtype) || dtype == ScalarType::Float || dtype == ScalarType::Double;
}

void check_floating(std::string_view op, std::string_view name, const Tensor& tensor) {
    check(is_supported(tensor.scalar_type()), op, name,
          " must be torch.float16, torch.bfloat16, torch.float32 or torch.float64, got ",
          dtype_name(tensor.scalar_type()));
}

void check_like(std::string_view op, std::string_view name, const Tensor& tensor, std::string_view other_name,
                const Tensor& other) {
    check(same_device(tensor, other), op, name, " must be on ", device_name(other), " like ", other_name, ", got ",
          device_name(tensor));
    check(tensor.scalar_type() == other.scalar_type(), op, name, " must be ", dtype_name(other.scalar_type()), " like ",
          other_name, ", got ", dtype_name(tensor.scalar_type()));
}

// `value` as one of the names, which are listed in the order of the enumeration's values.
template <typename Enum, size_t n>
Enum parse(std::string_view op, std::string_view argument, const std::array<std::string_view, n>& names,
           std::string_view value) {
    for (size_t i = 0; i < n; ++i) {
        if (value == names[i]) {
            return static_cast<Enum>(i);
        }
    }
    fail(op, argument, " must be one of ", join(names), ", got '", value, "'");
}

void check_entries(std::string_view op, std::string_view name, const IntList& values, size_t count, int64_t least) {
    check(values.size() == count, op, name, " must have ", count, count == 1 ? " entry" : " entries", ", got ",
          tuple(values));
    for (const auto value : values) {
        check(value >= least && value < kLimit, op, name, " must be ", least == 0 ? "non-negative" : "positive",
              " and below 2**31, got ", tuple(values));
    }
}

// Taps are counted in 32 bits, which the limit on each extent alone does not ensure.
void check_tap_count(std::string_view op, const IntList& kernel_size) {
    int64_t tap_count = 1;
    for (const auto extent : kernel_size) {
        tap_count *= extent;
        check(tap_count < kLimit, op, "kernel_size must have fewer than 2**31 taps, got ", tuple(kernel_size));
    }
}

// What a convolution and a depthwise convolution have in common, once the extent of their dense kernel is known.
ConvArguments check_geometry(std::string_view op, const Tensor& input, const IntList& kernel_size, int64_t out_channels,
                             const IntList& stride, const IntList& padding, int64_t groups, Method method,
                             const OptionalInt& touched_taps = std::nullopt) {
    const auto axes = static_cast<int64_t>(kernel_size.size());
    check_entries(op, "stride", stride, kernel_size.size(), 1);
    check_entries(op, "padding", padding, kernel_size.size(), 0);
    for (int64_t axis = input.dim() - axes; axis < input.dim(); ++axis) {
        check(input.size(axis) >= 1, op, "input must not be empty along a spatial axis, got ", shape(input));
    }
    const bool batched = input.dim() == axes + 2;
    IntList output_shape;
    if (batched) {
        output_shape.push_back(input.size(0));
    }
    output_shape.push_back(out_channels);
    IntList padded;
    bool fits = true;
    for (int64_t a = 0; a < axes; ++a) {
        padded.push_back(input.size(input.dim() - axes + a) + 2 * padding[a]);
        fits = fits && padded[a] >= kernel_size[a];
        output_shape.push_back((padded[a] - kernel_size[a]) / stride[a] + 1);
    }
    check(fits, op, "kernel_size ", tuple(kernel_size), " must not exceed the padded input, got ", tuple(padded));
    return {stride, padding, groups, batched, method, touched_taps, output_shape};
}

}  // namespace

KernelArguments check_kernel_arguments(std::string_view op, const Tensor& weight, const Tensor& positions,
                                       const IntList& kernel_size, const OptionalTensor& sigma,
                                       std::string_view version_name) {
    const auto version = parse<Version>(op, "version", kVersions, version_name);
    check(weight.dim() >= 3, op,
          "weight must have shape (out_channels, in_channels / groups, *dense_kernel_size, kernel_count), got ",
          shape(weight));
    check(weight.numel() > 0, op, "weight must not be empty, got ", shape(weight));
    const auto axes = static_cast<int64_t>(kernel_size.size());
    check(axes >= 1 && axes <= 3, op, "kernel_size must have 1 to 3 entries, got ", tuple(kernel_size));
    check_entries(op, "kernel_size", kernel_size, kernel_size.size(), 1);
    check_tap_count(op, kernel_size);
    check_floating(op, "weight", weight);

    const IntList weight_shape = sizes(weight);
    const int64_t dense_axes = weight.dim() - 3, learned_axes = axes - dense_axes;
    const IntList dense(weight_shape.begin() + 2, weight_shape.end() - 1);
    check(learned_axes >= 1 && std::equal(dense.begin(), dense.end(), kernel_size.begin()), op,
          "kernel_size must begin with weight's dense_kernel_size ", tuple(dense),
          " and go on with a learned axis, got ", tuple(kernel_size));
    IntList per_filter = weight_shape;
    per_filter.insert(per_filter.begin(), learned_axes);
    IntList shared = per_filter;
    shared[1] = 1;
    check(sizes(positions) == per_filter || sizes(positions) == shared, op, "positions must have shape ",
          tuple(per_filter), " or ", tuple(shared), ", got ", shape(positions));
    check_like(op, "positions", positions, "weight", weight);
    if (has_sigma(version)) {
        check(sigma.has_value(), op, "sigma must be given for version '", version_name, "', got None");
        check(sizes(*sigma) == sizes(positions), op, "sigma must have the shape of positions ", shape(positions),
              ", got ", shape(*sigma));
        check_like(op, "sigma", *sigma, "weight", weight);
    } else {
        check(!sigma.has_value(), op, "sigma must be None for version '", version_name, "', got a tensor");
    }
    const int64_t out_channels = weight.size(0), in_channels_per_group = weight.size(1);
    const int64_t kernel_count = weight.numel() / (out_channels * in_channels_per_group);
    const bool shared_positions = positions.size(1) == 1;
    return {kernel_size, version, out_channels, in_channels_per_group, kernel_count, learned_axes, shared_positions};
}

KernelArguments check_construct_kernel_backward_arguments(std::string_view op, const Tensor& grad_kernel,
                                                          const Tensor& weight, const Tensor& positions,
                                                          const OptionalTensor& sigma, std::string_view version) {
    check(grad_kernel.dim() >= 3, op,
          "grad_kernel must have shape (out_channels, in_channels / groups, *kernel_size), got ", shape(grad_kernel));
    const IntList grad_shape = sizes(grad_kernel);
    const KernelArguments arguments =
        check_kernel_arguments(op, weight, positions, {grad_shape.begin() + 2, grad_shape.end()}, sigma, version);
    check(grad_shape == arguments.kernel_shape(), op, "grad_kernel must have shape ", tuple(arguments.kernel_shape()),
          ", got ", shape(grad_kernel));
    check_like(op, "grad_kernel", grad_kernel, "weight", weight);
    return arguments;
}

ConvArguments check_conv_arguments(std::string_view op, int64_t spatial_axes, const Tensor& input, const Tensor& weight,
                                   const Tensor& positions, const IntList& kernel_size, const OptionalTensor& bias,
                                   const IntList& stride, const IntList& padding, int64_t groups,
                                   std::string_view method_name, const OptionalInt& touched_taps) {
    const auto method = parse<Method>(op, "method", kMethods, method_name);
    check(method != Method::im2col || (positions.size(1) == 1 && weight.dim() == 3), op,
          "method 'im2col' needs positions of shape ", tuple({spatial_axes, 1, weight.size(1), weight.size(-1)}),
          ", shared by all out channels, got ", shape(positions));
    check(touched_taps.value_or(1) >= 1, op, "touched_taps must be positive, got ", touched_taps.value_or(1));
    check_entries(op, "kernel_size", kernel_size, spatial_axes, 1);
    check(input.dim() == spatial_axes + 1 || input.dim() == spatial_axes + 2, op, "input must have ", spatial_axes + 1,
          " (unbatched) or ", spatial_axes + 2, " dimensions, got ", shape(input));
    check(groups >= 1, op, "groups must be positive, got ", groups);
    const int64_t out_channels = weight.size(0);
    check(out_channels % groups == 0, op, "groups must divide out_channels ", out_channels, ", got ", groups);
    const int64_t in_channels = input.size(input.dim() - spatial_axes - 1);
    check(in_channels == weight.size(1) * groups, op, "input must have ", weight.size(1) * groups, " channels (",
          weight.size(1), " per group, groups=", groups, "), got ", in_channels);
    check(same_device(input, weight), op, "input must be on ", device_name(weight), " like weight, got ",
          device_name(input));
    const ScalarType dtype = weight.scalar_type();
    const char* accepted = dtype == ScalarType::Double  ? "torch.float64"
                           : dtype == ScalarType::Float ? "torch.float16, torch.bfloat16 or torch.float32"
                                                        : "torch.float16 or torch.bfloat16";
    check(input.scalar_type() == dtype || (dtype != ScalarType::Double && is_half(input.scalar_type())), op,
          "input must be ", accepted, " for ", dtype_name(dtype), " parameters, got ", dtype_name(input.scalar_type()));
    if (bias.has_value()) {
        check(sizes(*bias) == IntList{out_channels}, op, "bias must have shape ", tuple({out_channels}), ", got ",
              shape(*bias));
        check(same_device(*bias, weight), op, "bias must be on ", device_name(weight), " like weight, got ",
              device_name(*bias));
        check(bias->scalar_type() == dtype || bias->scalar_type() == input.scalar_type(), op,
              "bias must have the dtype of input or weight, got ", dtype_name(bias->scalar_type()));
    }
    return check_geometry(op, input, kernel_size, out_channels, stride, padding, groups, method, touched_taps);
}

ConvArguments check_depthwise_conv_arguments(std::string_view op, int64_t spatial_axes, const Tensor& input,
                                             const Tensor& kernel, const OptionalTensor& bias, const IntList& stride,
                                             const IntList& padding) {
    check(kernel.dim() == spatial_axes + 2 && kernel.size(1) == 1, op, "kernel must have shape (out_channels, 1, ",
          kKernelAxes[spatial_axes - 1], "), got ", shape(kernel));
    check_floating(op, "kernel", kernel);
    const IntList kernel_size(kernel.sizes().begin() + 2, kernel.sizes().end());
    check(kernel.numel() > 0, op, "kernel must not be empty, got ", shape(kernel));
    check(input.dim() == spatial_axes + 1 || input.dim() == spatial_axes + 2, op, "input must have ", spatial_axes + 1,
          " (unbatched) or ", spatial_axes + 2, " dimensions, got ", shape(input));
    const int64_t channels = input.size(input.dim() - spatial_axes - 1);
    check(channels >= 1 && kernel.size(0) % channels == 0, op, "out_channels ", kernel.size(0),
          " must be a multiple of the input's channels, got ", channels);
    check_like(op, "input", input, "kernel", kernel);
    if (bias.has_value()) {
        check(sizes(*bias) == IntList{kernel.size(0)}, op, "bias must have shape ", tuple({kernel.size(0)}), ", got ",
              shape(*bias));
        check_like(op, "bias", *bias, "kernel", kernel);
    }
    return check_geometry(op, input, kernel_size, kernel.size(0), stride, padding, channels, Method::automatic);
}

template <size_t n>
std::array<bool, n> check_output_mask(std::string_view op, const BoolList& output_mask) {
    check(output_mask.size() == n, op, "output_mask must have ", n, " entries, got ", output_mask.size());
    std::array<bool, n> mask{};
    std::copy(output_mask.begin(), output_mask.end(), mask.begin());
    return mask;
}

template std::array<bool, 3> check_output_mask<3>(std::string_view op, const BoolList& output_mask);
template std::array<bool, 5> check_output_mask<5>(std::string_view op, const BoolList& output_mask);

void check_grad_output(std::string_view op, const Tensor& grad_output, const Tensor& input, const ConvArguments& conv) {
    check(sizes(grad_output) == conv.output_shape, op, "grad_output must have shape ", tuple(conv.output_shape),
          ", got ", shape(grad_output));
    check_like(op, "grad_output", grad_output, "input", input);
}

}  // namespace dcls
