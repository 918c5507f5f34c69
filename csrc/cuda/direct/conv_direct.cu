// Convolution that visits only the taps an element touches, on CUDA: no dense kernel exists.
//
// Output and gradient of the input: a block makes a tile of pixels of some channels that read the same channels. For
// every channel read, it copies the tile's surroundings to shared memory, zeros where they are outside; then each
// thread goes through the elements, one after the other, and adds a tap's share to its pixels. What a tap means is the
// same for all threads, and is worked out once for a thread's kPixels pixels. The gradient of the input is the same
// with taps mirrored, and with grad_output spread out by the stride. Bound by shared memory: one load a multiply-add,
// a quarter of the multiply-adds the processor could do.
//
// Gradients of parameters: a warp takes an element and some images. For each touched tap it multiplies grad_output with
// the input shifted by that tap, adds up over pixels, and contracts the sum with the element's factors there. Bound by
// the cache: two loads a multiply-add.
//
// Every pixel belongs to one thread, every element to one warp, and parts are added up in order: results are the same
// every time.
#include "conv_direct.h"

#include "../../aten_convolution.h"
#include "../elements.h"
#include "../planes.h"
#include "../ptx.h"
#include "../tuning.h"

namespace dcls::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPixels = 4;    // of a thread, in each of its channels
constexpr int kChannels = 4;  // of a block
constexpr int64_t kSharedBytes = 32 << 10;

// How blocks tile what they make (in Pass::backward, the gradient of the input), and how many taps they take at a time.
// Both limit what a tile reads.
struct Plan {
    std::array<int, kAxes> tile, taps;
    Axes pixel_step;  // how far apart, in what is read, neighbouring pixels are
    Axes made;        // extents of what is made
    Axes tiles, tap_blocks;

    int64_t reads(int axis) const { return (tile[axis] - 1) * pixel_step[axis] + taps[axis]; }
    int64_t reads() const { return reads(0) * reads(1) * reads(2); }
    // Whether `entries` have room for what a tile reads; the product of its axes may be beyond 64 bits.
    bool fits(int64_t entries) const {
        return reads(0) <= entries && reads(1) <= entries && reads(2) <= entries && reads() <= entries;
    }
};

template <Pass pass>
Plan make_plan(const Geometry& geometry, int64_t entry_bytes) {
    Plan plan{};
    plan.pixel_step = pass == Pass::forward ? geometry.stride : Axes{1, 1, 1};
    plan.made = pass == Pass::forward ? geometry.output : geometry.input;
    int64_t pixels = kThreads * kPixels;
    for (int axis = kAxes - 1; axis >= 0; --axis) {
        // A tile as wide as high has less around it.
        const int64_t most = axis > geometry.first_axis ? std::min<int64_t>(pixels, 32) : pixels;
        plan.tile[axis] = static_cast<int>(std::min(plan.made[axis], most));
        plan.taps[axis] = static_cast<int>(std::min(geometry.kernel_size[axis], kSharedBytes));
        pixels /= plan.tile[axis];
    }
    while (!plan.fits(kSharedBytes / entry_bytes)) {
        int widest = 0;
        for (int axis = 1; axis < kAxes; ++axis) {
            widest = plan.reads(axis) > plan.reads(widest) ? axis : widest;
        }
        int& cut = plan.tile[widest] > 1 && plan.taps[widest] <= 8 ? plan.tile[widest] : plan.taps[widest];
        cut = (cut + 1) / 2;
    }
    for (int axis = 0; axis < kAxes; ++axis) {
        plan.tiles[axis] = ceil_div(plan.made[axis], plan.tile[axis]);
        plan.tap_blocks[axis] = ceil_div(geometry.kernel_size[axis], plan.taps[axis]);
    }
    return plan;
}

// Number `index` of a box of `counts`, the last axis fastest.
__device__ Axes unravel(int64_t index, const Axes& counts) {
    return {index / counts[2] / counts[1], index / counts[2] % counts[1], index % counts[2]};
}

// What a tile reads along one axis for a block of taps: entry i is number `first + i` of the input or, spread out by
// `step`, of grad_output.
template <Pass pass>
struct ReadAxis {
    int64_t first, step, extent;
    int first_tap, taps, size;

    __device__ ReadAxis(const Geometry& geometry, const Plan& plan, int axis, int64_t tile, int64_t tap_block)
        : step(pass == Pass::forward ? 1 : geometry.stride[axis]),
          extent(pass == Pass::forward ? geometry.input[axis] : geometry.output[axis]),
          first_tap(static_cast<int>(tap_block) * plan.taps[axis]),
          taps(static_cast<int>(std::min<int64_t>(plan.taps[axis], geometry.kernel_size[axis] - first_tap))),
          size(static_cast<int>((plan.tile[axis] - 1) * plan.pixel_step[axis]) + taps) {
        const int64_t pixel = tile * plan.tile[axis] * plan.pixel_step[axis];
        first = pass == Pass::forward ? pixel - geometry.padding[axis] + first_tap
                                      : pixel + geometry.padding[axis] - (first_tap + taps - 1);
    }

    // Which number of the tensor entry i is, or -1 if it is 0: outside, or between what is spread out.
    __device__ int64_t index(int i) const {
        const int64_t entry = first + i;
        return entry >= 0 && entry % step == 0 && entry / step < extent ? entry / step : -1;
    }

    // Which of the entries that a pixel reads belongs to a tap.
    __device__ int offset(int tap) const {
        const int from_first = tap - first_tap;
        return pass == Pass::forward ? from_first : taps - 1 - from_first;
    }

    struct Range {
        int begin, end;
    };
    __device__ Range in_block(const TapRange& range) const {
        return {std::max(static_cast<int>(range.begin), first_tap),
                std::min(static_cast<int>(range.end), first_tap + taps)};
    }
};

template <Pass pass>
struct Read {
    ReadAxis<pass> z, y, x;

    __device__ Read(const Geometry& geometry, const Plan& plan, const Axes& tile, const Axes& tap_block)
        : z(geometry, plan, 0, tile[0], tap_block[0]),
          y(geometry, plan, 1, tile[1], tap_block[1]),
          x(geometry, plan, 2, tile[2], tap_block[2]) {}

    template <typename T>
    __device__ void load(const T* plane, const Axes& stride, Compute<T>* to) const {
        for (int i = static_cast<int>(threadIdx.x); i < z.size * y.size * x.size; i += kThreads) {
            const int64_t iz = z.index(i / x.size / y.size), iy = y.index(i / x.size % y.size);
            const int64_t ix = x.index(i % x.size);
            const bool valid = iz >= 0 && iy >= 0 && ix >= 0;
            const T* from = plane + (valid ? iz * stride[0] + iy * stride[1] + ix * stride[2] : 0);
            if constexpr (std::is_same_v<T, Compute<T>>) {
                copy_async(to + i, from, valid);
            } else {
                to[i] = valid ? static_cast<float>(*from) : 0.0f;
            }
        }
    }

    // Adds an element's share to the pixels that start to read at `starts`.
    template <Version version, typename C>
    __device__ void add(const Element<version, C>& element, C weight, const Axes& extent, const C* entries,
                        const int (&starts)[kPixels], C (&sums)[kPixels]) const {
        const bool wild = element.is_wild();
        const auto zs = z.in_block(element.touched(0, extent[0], wild));
        const auto ys = y.in_block(element.touched(1, extent[1], wild));
        const auto xs = x.in_block(element.touched(2, extent[2], wild));
        for (int tz = zs.begin; tz < zs.end; ++tz) {
            const C at_z = weight * element.factor(0, tz).value;
            for (int ty = ys.begin; ty < ys.end; ++ty) {
                const C at_y = at_z * element.factor(1, ty).value;
                const C* row = entries + (z.offset(tz) * y.size + y.offset(ty)) * x.size;
                for (int tx = xs.begin; tx < xs.end; ++tx) {
                    const C share = at_y * element.factor(2, tx).value;
                    const C* at_tap = row + x.offset(tx);
#pragma unroll
                    for (int j = 0; j < kPixels; ++j) {
                        sums[j] += share * at_tap[starts[j]];
                    }
                }
            }
        }
    }
};

// The thread's pixel number j in a tile; its z is beyond the tile if there are not as many.
__device__ Axes pixel_in_tile(const Plan& plan, int j) {
    return unravel(threadIdx.x + j * kThreads, {plan.tile[0], plan.tile[1], plan.tile[2]});
}

template <Pass pass, Version version, typename T>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    direct_kernel(Geometry geometry, Filters filters, Plan plan, Parameters<Compute<T>> parameters,
                  const Compute<T>* inverse, Planes<const T> in, Planes<T> out, const Compute<T>* bias) {
    using C = Compute<T>;
    C* const entries = shared_memory<C>();
    // Channels of a group that are made, and those that are read.
    const int64_t made = pass == Pass::forward ? geometry.out_channels_per_group : geometry.in_channels_per_group;
    const int64_t reads = pass == Pass::forward ? geometry.in_channels_per_group : geometry.out_channels_per_group;
    const int64_t channel_blocks = ceil_div(made, kChannels);
    const int64_t tiles = product(plan.tiles);

    for_each_item(geometry.images * geometry.groups * channel_blocks * tiles, [&](int64_t item) {
        const Axes tile = unravel(item % tiles, plan.tiles);
        const int64_t first_made = item / tiles % channel_blocks * kChannels;
        const int64_t group = item / tiles / channel_blocks % geometry.groups;
        const int64_t image = item / tiles / channel_blocks / geometry.groups;
        C sums[kChannels][kPixels] = {};

        for (int64_t tap_block = 0; tap_block < product(plan.tap_blocks); ++tap_block) {
            const Read<pass> read(geometry, plan, tile, unravel(tap_block, plan.tap_blocks));
            int starts[kPixels];
#pragma unroll
            for (int j = 0; j < kPixels; ++j) {
                const Axes pixel = pixel_in_tile(plan, j);
                const int64_t start =
                    (pixel[0] * plan.pixel_step[0] * read.y.size + pixel[1] * plan.pixel_step[1]) * read.x.size +
                    pixel[2] * plan.pixel_step[2];
                starts[j] = pixel[0] < plan.tile[0] ? static_cast<int>(start) : 0;
            }
            for (int64_t channel = 0; channel < reads; ++channel) {
                __syncthreads();  // the last channel has been read
                read.load(in.plane(image, group * reads + channel), in.stride, entries);
                copy_wait();
                __syncthreads();
#pragma unroll
                for (int c = 0; c < kChannels; ++c) {
                    if (first_made + c < made) {
                        const int64_t filter =
                            pass == Pass::forward
                                ? (group * made + first_made + c) * filters.in_channels_per_group + channel
                                : (group * reads + channel) * filters.in_channels_per_group + first_made + c;
                        for (int64_t k = 0; k < filters.kernel_count; ++k) {
                            const int64_t own = filters.position_element(filter, k);
                            const C weight = parameters.weight[filter * filters.kernel_count + k] * inverse[own];
                            read.add(Element<version, C>(filters, parameters, own), weight, filters.extent, entries,
                                     starts, sums[c]);
                        }
                    }
                }
            }
        }

#pragma unroll
        for (int j = 0; j < kPixels; ++j) {
            Axes pixel = pixel_in_tile(plan, j);
            bool exists = pixel[0] < plan.tile[0];
            int64_t at = 0;
            for (int axis = 0; axis < kAxes; ++axis) {
                pixel[axis] += tile[axis] * plan.tile[axis];
                exists = exists && pixel[axis] < plan.made[axis];
                at += pixel[axis] * out.stride[axis];
            }
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
                if (exists && first_made + c < made) {
                    const int64_t channel = group * made + first_made + c;
                    out.plane(image, channel)[at] =
                        static_cast<T>(sums[c][j] + (bias != nullptr ? bias[channel] : C(0)));
                }
            }
        }
    });
}

// The outputs along one axis for which a tap meets the input.
struct Meeting {
    int64_t begin, size, first_input;

    __device__ Meeting(const Geometry& geometry, int axis, int64_t tap) {
        const int64_t first = tap - geometry.padding[axis], stride = geometry.stride[axis];
        const auto inside = steps_inside(first, stride, geometry.input[axis], geometry.output[axis]);
        begin = inside.begin;
        size = inside.count();
        first_input = first + begin * stride;
    }
};

// Images [first, first + chunk) of the element's part.
template <Version version, typename T>
__global__ void __launch_bounds__(kThreads, kFewestBlocks<T>)
    contract_images_kernel(Geometry geometry, Filters filters, int64_t chunk, Parameters<Compute<T>> parameters,
                           Planes<const T> grad_output, Planes<const T> in, Compute<T>* contractions) {
    using C = Compute<T>;
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t chunks = ceil_div(geometry.images, chunk), count = filters.elements();
    for_each_item(ceil_div(count * chunks, kWarps), [&](int64_t item) {
        const int64_t part = item * kWarps + threadIdx.x / kWarp;
        if (part >= count * chunks) {
            return;
        }
        const int64_t index = part % count, filter = index / filters.kernel_count;
        const int64_t first_image = part / count * chunk;
        const int64_t past_image = std::min(first_image + chunk, geometry.images);
        const int64_t out_channel = filter / filters.in_channels_per_group;
        const int64_t in_channel = out_channel / geometry.out_channels_per_group * geometry.in_channels_per_group +
                                   filter % filters.in_channels_per_group;
        const Element<version, C> element(filters, parameters,
                                          filters.position_element(filter, index % filters.kernel_count));
        const bool wild = element.is_wild();
        const TapRange zs = element.touched(0, filters.extent[0], wild);
        const TapRange ys = element.touched(1, filters.extent[1], wild);
        const TapRange xs = element.touched(2, filters.extent[2], wild);

        Contraction<C> contraction;
        for (int64_t tz = zs.begin; tz < zs.end; ++tz) {
            const Meeting z(geometry, 0, tz);
            const Factor<C> at_z = element.factor(0, tz);
            for (int64_t ty = ys.begin; ty < ys.end; ++ty) {
                const Meeting y(geometry, 1, ty);
                const Factor<C> at_y = element.factor(1, ty);
                for (int64_t tx = xs.begin; tx < xs.end; ++tx) {
                    const Meeting x(geometry, 2, tx);
                    C sum = 0;
                    for (int64_t plane = 0; x.size > 0 && plane < (past_image - first_image) * z.size; ++plane) {
                        const int64_t image = first_image + plane / z.size, pz = plane % z.size;
                        const T* grads = grad_output.plane(image, out_channel) +
                                         (z.begin + pz) * grad_output.stride[0] + y.begin * grad_output.stride[1] +
                                         x.begin * grad_output.stride[2];
                        const T* inputs = in.plane(image, in_channel) +
                                          (z.first_input + pz * geometry.stride[0]) * in.stride[0] +
                                          y.first_input * in.stride[1] + x.first_input * in.stride[2];
                        // Lanes go through the plane's pixels row by row.
                        int64_t py = lane / x.size, px = lane % x.size;
                        while (py < y.size) {
                            sum += static_cast<C>(grads[py * grad_output.stride[1] + px * grad_output.stride[2]]) *
                                   static_cast<C>(inputs[py * geometry.stride[1] * in.stride[1] +
                                                         px * geometry.stride[2] * in.stride[2]]);
                            for (px += kWarp; px >= x.size; px -= x.size) {
                                ++py;
                            }
                        }
                    }
                    contract_tap(sum, at_z, at_y, element.factor(2, tx), contraction);
                }
            }
        }
        contraction = warp_sum(contraction);
        if (lane == 0) {
            store(contraction, contractions + part / count * kContractionValues * count, index, count);
        }
    });
}

template <Pass pass>
Tensor make(const Tensor& in, const Convolution& convolution, const OptionalTensor& bias) {
    const Tensor& input = convolution.input;
    const PreparedParameters prepared = convolution.parameters();
    const PreparedBias prepared_bias(bias, prepared.dtype);
    const Filters filters(convolution.kernel);
    const Geometry geometry = convolution.geometry();
    const Tensor inverse = inverse_normalisation(filters, prepared, convolution.kernel.version);
    const Tensor out =
        empty_in_format_of(input, pass == Pass::forward ? convolution.arguments.batched_output_shape() : sizes(input));
    const Launcher launch(input);
    dispatch_dtype(input.scalar_type(), [&]<typename T>() {
        using C = Compute<T>;
        const Plan plan = make_plan<pass>(geometry, sizeof(C));
        const int64_t made = pass == Pass::forward ? geometry.out_channels_per_group : geometry.in_channels_per_group;
        const int64_t items = geometry.images * geometry.groups * (ceil_div(made, kChannels)) * product(plan.tiles);
        dispatch_version<C>(convolution.kernel.version, [&]<Version version, typename>() {
            launch(direct_kernel<pass, version, T>, items, kThreads, plan.reads() * static_cast<int64_t>(sizeof(C)),
                   geometry, filters, plan, prepared.pointers<C>(), inverse.const_data_ptr<C>(), Planes<const T>(in),
                   Planes<T>(out), prepared_bias.pointer<C>());
        });
    });
    return out;
}

// (parts, 7, elements)
Tensor contract(const Tensor& grad_output, const Convolution& convolution, const PreparedParameters& prepared) {
    const Tensor& input = convolution.input;
    const Filters filters(convolution.kernel);
    const Geometry geometry = convolution.geometry();
    const int64_t wanted = ceil_div(kWantedWarps, filters.elements());
    const int64_t chunk = std::max<int64_t>(1, ceil_div(geometry.images, wanted));
    const int64_t chunks = ceil_div(geometry.images, chunk);
    const Tensor contractions = empty({chunks, kContractionValues, filters.elements()}, prepared.dtype, input);
    const Launcher launch(input);
    dispatch_dtype(input.scalar_type(), [&]<typename T>() {
        using C = Compute<T>;
        dispatch_version<C>(convolution.kernel.version, [&]<Version version, typename>() {
            launch(contract_images_kernel<version, T>, ceil_div(filters.elements() * chunks, kWarps), kThreads, 0,
                   geometry, filters, chunk, prepared.pointers<C>(), Planes<const T>(grad_output),
                   Planes<const T>(input), contractions.mutable_data_ptr<C>());
        });
    });
    return contractions;
}

}  // namespace

Tensor conv_direct(const Convolution& convolution, const OptionalTensor& bias) {
    return make<Pass::forward>(convolution.input, convolution, bias);
}

ConvGradients<Tensor> conv_direct_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted) {
    const auto& [input, weight, positions, sigma, kernel, arguments] = convolution;
    const auto none = [&] { return not_computed(input.scalar_type(), input); };
    const Tensor grad_input = wanted.input ? make<Pass::backward>(grad_output, convolution, std::nullopt) : none();
    ParameterGradients<Tensor> grad_parameters = parameters_not_computed(weight);
    if (any(wanted.parameters)) {
        const PreparedParameters prepared = convolution.parameters();
        grad_parameters = element_gradients(contract(grad_output, convolution, prepared), Filters(kernel), prepared,
                                            kernel.version, weight.scalar_type(), wanted.parameters);
    }
    return {grad_input, grad_parameters, wanted.bias ? aten_bias_gradient(grad_output) : none()};
}

}  // namespace dcls::cuda
