// Convolution with positions that all out channels share, on CUDA.
//
// Each in channel is interpolated once per element and output pixel, which gives columns, and a matrix product does the
// rest,
//
//     output (g, O/g, pixels) = weight (g, O/g, (I/g) K) * columns (g, (I/g) K, pixels).
//
// Columns exist for a tile of pixels at a time, of kTileEntries, which stays in the L2 cache; the products are
// PyTorch's. Columns have the input's dtype and are normalised, so that half types use the tensor cores and stay in
// range. Kernels around the products: a thread takes one element (or, back to the input, one channel) and kPixels
// pixels, for which it works out once what a tap means; back to the parameters, a warp takes an element and a run of
// pixels. They are bound by the cache, one load for each touched tap, or two.
//
// Tiles depend on shapes only and are added up in order, and no two threads add to the same number: results are the
// same every time.
#include "conv_im2col.h"

#include "../../aten_convolution.h"
#include "../elements.h"
#include "../planes.h"
#include "../tuning.h"

namespace dcls::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPixels = 4;

// Output pixels, numbered image by image, from `first` on.
struct Tile {
    int64_t first, pixels;
};

// A pixel number of `extent`, taken apart.
struct Pixel {
    int64_t image, z, y, x;

    __device__ Pixel(int64_t index, const Axes& extent) {
        x = index % extent[2];
        index /= extent[2];
        y = index % extent[1];
        index /= extent[1];
        z = index % extent[0];
        image = index / extent[0];
    }
};

__device__ bool is_within(int64_t value, int64_t extent) { return value >= 0 && value < extent; }

// The input that an output pixel meets at tap (0, 0, 0), and what it meets at others.
template <typename T>
struct Window {
    const T* plane;
    int64_t z, y, x;

    __device__ Window(const Geometry& geometry, const Planes<const T>& in, int64_t channel, int64_t pixel) {
        const Pixel at(pixel, geometry.output);
        plane = in.plane(at.image, channel);
        z = at.z * geometry.stride[0] - geometry.padding[0];
        y = at.y * geometry.stride[1] - geometry.padding[1];
        x = at.x * geometry.stride[2] - geometry.padding[2];
    }

    __device__ Compute<T> at(const Geometry& geometry, const Axes& stride, int64_t tap_z, int64_t tap_y,
                             int64_t tap_x) const {
        const int64_t iz = z + tap_z, iy = y + tap_y, ix = x + tap_x;
        return is_within(iz, geometry.input[0]) && is_within(iy, geometry.input[1]) && is_within(ix, geometry.input[2])
                   ? static_cast<Compute<T>>(plane[iz * stride[0] + iy * stride[1] + ix * stride[2]])
                   : Compute<T>(0);
    }
};

// body(tap z, tap y, tap x, the element's value there) for every tap it touches.
template <Version version, typename C, typename Body>
__device__ void for_each_tap(const Element<version, C>& element, const Axes& extent, const Body& body) {
    const bool wild = element.is_wild();
    const TapRange zs = element.touched(0, extent[0], wild), ys = element.touched(1, extent[1], wild);
    const TapRange xs = element.touched(2, extent[2], wild);
    for (int64_t z = zs.begin; z < zs.end; ++z) {
        const Factor<C> at_z = element.factor(0, z);
        for (int64_t y = ys.begin; y < ys.end; ++y) {
            const Factor<C> at_y = element.factor(1, y);
            for (int64_t x = xs.begin; x < xs.end; ++x) {
                body(z, y, x, at_z, at_y, element.factor(2, x));
            }
        }
    }
}

// columns[channel * K + k, pixel]; channels are those of all groups.
template <Version version, typename T>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    columns_kernel(Geometry geometry, Filters filters, Tile tile, Parameters<Compute<T>> parameters,
                   const Compute<T>* inverse, Planes<const T> in, T* columns) {
    using C = Compute<T>;
    const int64_t blocks = ceil_div(tile.pixels, kThreads * kPixels);
    const int64_t rows = geometry.groups * geometry.elements();
    for_each_item(rows * blocks, [&](int64_t item) {
        const int64_t row = item / blocks, channel = row / geometry.kernel_count;
        const int64_t element = row % geometry.elements();
        const int64_t first = item % blocks * kThreads * kPixels + threadIdx.x;
        const auto window = [&](int j) {
            return Window<T>(geometry, in, channel, tile.first + std::min(first + j * kThreads, tile.pixels - 1));
        };
        static_assert(kPixels == 4);
        const Window<T> windows[kPixels] = {window(0), window(1), window(2), window(3)};
        C sums[kPixels] = {};
        for_each_tap(
            Element<version, C>(filters, parameters, element), filters.extent,
            [&](int64_t z, int64_t y, int64_t x, const Factor<C>& at_z, const Factor<C>& at_y, const Factor<C>& at_x) {
                const C share = at_z.value * at_y.value * at_x.value;
#pragma unroll
                for (int j = 0; j < kPixels; ++j) {
                    sums[j] += share * windows[j].at(geometry, in.stride, z, y, x);
                }
            });
#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
            if (first + j * kThreads < tile.pixels) {
                columns[row * tile.pixels + first + j * kThreads] = static_cast<T>(sums[j] * inverse[element]);
            }
        }
    });
}

// grad_input[image, channel, pixel] += what the tile's output pixels want of it.
template <Version version, typename T>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    grad_input_kernel(Geometry geometry, Filters filters, Tile tile, Parameters<Compute<T>> parameters,
                      const Compute<T>* inverse, const T* grad_columns, Compute<T>* grad_input) {
    using C = Compute<T>;
    const int64_t outputs = geometry.output[0] * geometry.output[1] * geometry.output[2];
    const int64_t inputs = geometry.input[0] * geometry.input[1] * geometry.input[2];
    const int64_t channels = geometry.groups * geometry.in_channels_per_group;
    const int64_t first_image = tile.first / outputs, last_image = (tile.first + tile.pixels - 1) / outputs;
    const int64_t blocks = ceil_div(inputs, kThreads);
    for_each_item((last_image - first_image + 1) * channels * blocks, [&](int64_t item) {
        const int64_t index = item % blocks * kThreads + threadIdx.x;
        const int64_t channel = item / blocks % channels, image = first_image + item / blocks / channels;
        if (index >= inputs) {
            return;
        }
        const Pixel pixel(index, geometry.input);
        C sum = 0;
        for (int64_t k = 0; k < geometry.kernel_count; ++k) {
            const int64_t element = channel % geometry.in_channels_per_group * geometry.kernel_count + k;
            const T* row = grad_columns + (channel * geometry.kernel_count + k) * tile.pixels;
            C of_element = 0;
            for_each_tap(
                Element<version, C>(filters, parameters, element), filters.extent,
                [&](int64_t z, int64_t y, int64_t x, const Factor<C>& at_z, const Factor<C>& at_y,
                    const Factor<C>& at_x) {
                    const auto output = [&](int axis, int64_t at, int64_t tap) {
                        const int64_t from_start = at + geometry.padding[axis] - tap;
                        return from_start >= 0 && from_start % geometry.stride[axis] == 0 &&
                                       from_start / geometry.stride[axis] < geometry.output[axis]
                                   ? from_start / geometry.stride[axis]
                                   : -1;
                    };
                    const int64_t oz = output(0, pixel.z, z), oy = output(1, pixel.y, y), ox = output(2, pixel.x, x);
                    const int64_t pixel_in_tile =
                        image * outputs - tile.first + (oz * geometry.output[1] + oy) * geometry.output[2] + ox;
                    if (oz >= 0 && oy >= 0 && ox >= 0 && is_within(pixel_in_tile, tile.pixels)) {
                        of_element += at_z.value * at_y.value * at_x.value * static_cast<C>(row[pixel_in_tile]);
                    }
                });
            sum += of_element * inverse[element];
        }
        grad_input[(image * channels + channel) * inputs + index] += sum;
    });
}

// contractions (parts, groups, 7, (I/g) K): a part is a run of `run` pixels of the tile.
template <Version version, typename T>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    contract_columns_kernel(Geometry geometry, Filters filters, Tile tile, int64_t run,
                            Parameters<Compute<T>> parameters, const T* grad_columns, Planes<const T> in,
                            Compute<T>* contractions) {
    using C = Compute<T>;
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t rows = geometry.groups * geometry.elements(), runs = ceil_div(tile.pixels, run);
    for_each_item(ceil_div(rows * runs, kWarps), [&](int64_t item) {
        const int64_t index = item * kWarps + threadIdx.x / kWarp;
        if (index >= rows * runs) {
            return;
        }
        const int64_t row = index % rows, group = row / geometry.elements(), element = row % geometry.elements();
        const int64_t begin = index / rows * run, end = std::min(begin + run, tile.pixels);
        Contraction<C> contraction;
        for_each_tap(
            Element<version, C>(filters, parameters, element), filters.extent,
            [&](int64_t z, int64_t y, int64_t x, const Factor<C>& at_z, const Factor<C>& at_y, const Factor<C>& at_x) {
                C sum = 0;
                for (int64_t pixel = begin + lane; pixel < end; pixel += kWarp) {
                    const Window<T> window(geometry, in, row / geometry.kernel_count, tile.first + pixel);
                    sum += static_cast<C>(grad_columns[row * tile.pixels + pixel]) *
                           window.at(geometry, in.stride, z, y, x);
                }
                contract_tap(sum, at_z, at_y, at_x, contraction);
            });
        contraction = warp_sum(contraction);
        if (lane == 0) {
            C* part =
                contractions + (index / rows * geometry.groups + group) * kContractionValues * geometry.elements();
            store(contraction, part, element, geometry.elements());
        }
    });
}

// Between a tensor (N, C, *spatial) and a matrix (C, pixels) of a tile's pixels.
enum class Copy { to_matrix, to_tensor };

template <Copy copy, typename T>
__global__ void __launch_bounds__(kThreads)
    copy_tile_kernel(Axes extent, int64_t channels, Tile tile, Planes<T> tensor, T* matrix, const Compute<T>* bias) {
    const int64_t blocks = ceil_div(tile.pixels, kThreads);
    for_each_item(channels * blocks, [&](int64_t item) {
        const int64_t channel = item / blocks, index = item % blocks * kThreads + threadIdx.x;
        if (index >= tile.pixels) {
            return;
        }
        const Pixel pixel(tile.first + index, extent);
        T& in_tensor = tensor.plane(
            pixel.image, channel)[pixel.z * tensor.stride[0] + pixel.y * tensor.stride[1] + pixel.x * tensor.stride[2]];
        T& in_matrix = matrix[channel * tile.pixels + index];
        if constexpr (copy == Copy::to_matrix) {
            in_matrix = in_tensor;
        } else {
            const Compute<T> added = bias != nullptr ? bias[channel] : Compute<T>(0);
            in_tensor = static_cast<T>(static_cast<Compute<T>>(in_matrix) + added);
        }
    });
}

// What the passes have in common: the arguments prepared, and kernels launched for a tile.
class Im2col {
 public:
    explicit Im2col(const Convolution& convolution)
        : input_(convolution.input),
          dtype_(input_.scalar_type()),
          prepared_(convolution.parameters()),
          version_(convolution.kernel.version),
          filters_(convolution.kernel),
          geometry_(convolution.geometry()),
          inverse_(inverse_normalisation(filters_, prepared_, version_)),
          weight_(view(contiguous(cast(convolution.weight, dtype_)),
                       {geometry_.groups, geometry_.out_channels_per_group, geometry_.elements()})),
          launch_(input_) {
        // One element a position: those of all out channels at once.
        filters_.out_channels = 1;
    }

    ScalarType compute_dtype() const { return prepared_.dtype; }
    const Tensor& weight() const { return weight_; }
    const Geometry& geometry() const { return geometry_; }

    template <typename Body>
    void for_each_tile(const Body& body) const {
        const int64_t pixels = geometry_.images * outputs();
        const int64_t most = std::max<int64_t>(1, kTileEntries / (geometry_.groups * geometry_.elements()));
        for (int64_t first = 0; first < pixels; first += most) {
            body(Tile{first, std::min(most, pixels - first)});
        }
    }

    // (g, (I/g) K, pixels)
    Tensor columns(const Tile& tile) const {
        const Tensor result = matrix(geometry_.elements(), tile);
        dispatch_kernel([&]<Version version, typename T>() {
            launch_(columns_kernel<version, T>, rows() * ceil_div(tile.pixels, kThreads * kPixels), kThreads, 0,
                    geometry_, filters_, tile, prepared_.pointers<Compute<T>>(), inverse_.const_data_ptr<Compute<T>>(),
                    Planes<const T>(input_), data<T>(result));
        });
        return result;
    }

    // (g, O/g, pixels) of a tensor with O channels.
    Tensor gather(const Tensor& tensor, const Tile& tile) const {
        const Tensor result = matrix(geometry_.out_channels_per_group, tile);
        copy_tile<Copy::to_matrix>(tensor, tile, result, PreparedBias(std::nullopt, prepared_.dtype));
        return result;
    }

    void scatter(const Tensor& matrix, const Tile& tile, const Tensor& tensor, const PreparedBias& bias) const {
        copy_tile<Copy::to_tensor>(tensor, tile, matrix, bias);
    }

    // grad_input: (N, I, *spatial), contiguous, in the compute dtype.
    void add_to_grad_input(const Tensor& grad_columns, const Tile& tile, const Tensor& grad_input) const {
        const int64_t images = (tile.first + tile.pixels - 1) / outputs() - tile.first / outputs() + 1;
        const int64_t inputs = geometry_.input[0] * geometry_.input[1] * geometry_.input[2];
        dispatch_kernel([&]<Version version, typename T>() {
            launch_(grad_input_kernel<version, T>,
                    images * geometry_.groups * geometry_.in_channels_per_group * ceil_div(inputs, kThreads), kThreads,
                    0, geometry_, filters_, tile, prepared_.pointers<Compute<T>>(),
                    inverse_.const_data_ptr<Compute<T>>(), static_cast<const T*>(grad_columns.const_data_ptr()),
                    grad_input.mutable_data_ptr<Compute<T>>());
        });
    }

    // (1, 7, (I/g) K) of a tile.
    Tensor contractions(const Tensor& grad_columns, const Tile& tile) const {
        const int64_t wanted = std::clamp<int64_t>(kWantedWarps / rows(), 1, ceil_div(tile.pixels, kSmallestPart));
        const int64_t run = ceil_div(tile.pixels, wanted), runs = ceil_div(tile.pixels, run);
        const Tensor parts =
            empty({runs * geometry_.groups, kContractionValues, geometry_.elements()}, prepared_.dtype, input_);
        dispatch_kernel([&]<Version version, typename T>() {
            launch_(contract_columns_kernel<version, T>, ceil_div(rows() * runs, kWarps), kThreads, 0, geometry_,
                    filters_, tile, run, prepared_.pointers<Compute<T>>(),
                    static_cast<const T*>(grad_columns.const_data_ptr()), Planes<const T>(input_),
                    parts.mutable_data_ptr<Compute<T>>());
        });
        return sum_over(parts, {0}, true);
    }

    // The gradients of positions and sigma: the weight's is a product of columns. The elements' weights are in
    // grad_columns already.
    ParameterGradients<Tensor> parameter_gradients(const Tensor& contractions, bool positions, bool sigma,
                                                   ScalarType dtype) const {
        PreparedParameters unit = prepared_;
        unit.weight = full({1, geometry_.in_channels_per_group, geometry_.kernel_count}, 1.0, prepared_.dtype, input_);
        return element_gradients(contractions, filters_, unit, version_, dtype, {false, positions, sigma});
    }

 private:
    int64_t rows() const { return geometry_.groups * geometry_.elements(); }
    int64_t outputs() const { return geometry_.output[0] * geometry_.output[1] * geometry_.output[2]; }

    Tensor matrix(int64_t rows, const Tile& tile) const {
        return empty({geometry_.groups, rows, tile.pixels}, dtype_, input_);
    }

    template <typename T>
    static T* data(const Tensor& tensor) {
        return static_cast<T*>(tensor.data_ptr());
    }

    template <typename Body>
    void dispatch_kernel(const Body& body) const {
        dispatch_dtype(dtype_, [&]<typename T>() {
            dispatch_version<T>(version_, [&]<Version version, typename>() { body.template operator()<version, T>(); });
        });
    }

    template <Copy copy>
    void copy_tile(const Tensor& tensor, const Tile& tile, const Tensor& matrix, const PreparedBias& bias) const {
        const int64_t channels = geometry_.groups * geometry_.out_channels_per_group;
        dispatch_dtype(dtype_, [&]<typename T>() {
            launch_(copy_tile_kernel<copy, T>, channels * ceil_div(tile.pixels, kThreads), kThreads, 0,
                    geometry_.output, channels, tile, Planes<T>(tensor), data<T>(matrix), bias.pointer<Compute<T>>());
        });
    }

    const Tensor& input_;  // of the convolution, which outlives this
    ScalarType dtype_;
    PreparedParameters prepared_;
    Version version_;
    Filters filters_;
    Geometry geometry_;
    Tensor inverse_, weight_;
    Launcher launch_;
};

}  // namespace

Tensor conv_im2col(const Convolution& convolution, const OptionalTensor& bias) {
    const Im2col im2col(convolution);
    const PreparedBias prepared_bias(bias, im2col.compute_dtype());
    const Tensor output = empty_in_format_of(convolution.input, convolution.arguments.batched_output_shape());
    im2col.for_each_tile([&](const Tile& tile) {
        im2col.scatter(batched_product(im2col.weight(), im2col.columns(tile)), tile, output, prepared_bias);
    });
    return output;
}

ConvGradients<Tensor> conv_im2col_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted) {
    const auto& [input, weight, positions, sigma, kernel, arguments] = convolution;
    const Im2col im2col(convolution);
    const auto& [wants_weight, wants_positions, wants_sigma] = wanted.parameters;
    const bool wants_contractions = wants_positions || wants_sigma;
    const ScalarType dtype = weight.scalar_type(), wide = im2col.compute_dtype();

    // Tiles add to these.
    const auto zeros = [&, like = input](bool is_wanted, const IntList& shape) {
        return is_wanted ? full(shape, 0.0, wide, like) : not_computed(wide, like);
    };
    const Tensor grad_input = zeros(wanted.input, sizes(input));
    Tensor grad_weight = zeros(wants_weight, sizes(im2col.weight()));
    Tensor contractions = zeros(wants_contractions, {1, kContractionValues, im2col.geometry().elements()});
    im2col.for_each_tile([&](const Tile& tile) {
        const Tensor grad = im2col.gather(grad_output, tile);
        if (wanted.input || wants_contractions) {
            const Tensor grad_columns = batched_product(transpose(im2col.weight(), 1, 2), grad);
            if (wanted.input) {
                im2col.add_to_grad_input(grad_columns, tile, grad_input);
            }
            if (wants_contractions) {
                contractions = add(contractions, im2col.contractions(grad_columns, tile));
            }
        }
        if (wants_weight) {
            // In float32 for half types: a sum over so many pixels can exceed float16.
            const Tensor columns = cast(im2col.columns(tile), wide);
            grad_weight = add(grad_weight, batched_product(cast(grad, wide), transpose(columns, 1, 2)));
        }
    });
    ParameterGradients<Tensor> grad_parameters = parameters_not_computed(weight);
    if (wants_contractions) {
        grad_parameters = im2col.parameter_gradients(contractions, wants_positions, wants_sigma, dtype);
    }
    if (wants_weight) {
        grad_parameters.weight = cast(view(grad_weight, sizes(weight)), dtype);
    }
    const auto none = [&] { return not_computed(input.scalar_type(), input); };
    return {wanted.input ? in_format_of(input, cast(grad_input, input.scalar_type())) : none(), grad_parameters,
            wanted.bias ? aten_bias_gradient(grad_output) : none()};
}

}  // namespace dcls::cuda
