// Depthwise convolution on the CPU, dense.
//
// The output and both gradients are correlations of two tensors, channel by channel (correlation_loops.h):
//
//     output[p] = sum over taps t of kernel[t] * input[p * stride + t - padding]
//     grad_kernel[t] = sum over pixels p of grad_output[p] * input[t + p * stride - padding]
//     grad_input[j * stride + r - padding] = sum over t of kernel[r + t * stride] * grad_output[j - t]
//
// The last is one correlation for each remainder r, with every stride-th tap in reverse order: views of the tensors
// make it one. A work item gathers as many planes as a cache line has values, one for each lane of a vector or of
// several, and correlates them: for the output and grad_input, a tile of pixels of some planes; for grad_kernel, some
// taps of some channels, for which it visits all images in order. Each result belongs to one work item and is summed in
// one order, so results do not depend on the number of threads.
//
// Bound by the multiply-adds inside the image for large kernels (inner_loops/correlation_loops.h), by the gathering for
// small ones (costs.cpp has both).
#include "depthwise_conv.h"

#include "../../memory_format.h"
#include "../../parameters.h"
#include "../aligned_vector.h"
#include "../bias_gradient.h"
#include "row_plan.h"

namespace dcls::cpu {
namespace {

// The pixels of a tile: those of 16 planes of float32, and what taps reach from them, fit a core's L2 cache.
constexpr int64_t kTilePixels = 1 << 12;
// How finely work is cut where there is enough of it: into about this many items, as long as a tile keeps kSmallestTile
// pixels.
constexpr int64_t kItems = 16;
constexpr int64_t kSmallestTile = 256;
// Every box of taps gathers the images anew, which takes as long as about so many taps.
constexpr int64_t kSmallestBox = 40;

// result[r] = sum over a of kernel[a] * source[r * result_step + a * kernel_step - padding].
struct Operation {
    Planes result, kernel, source;
    Axes result_step, kernel_step, padding;

    void select_results(int axis, int64_t begin, int64_t count) {
        result.select(axis, begin, count);
        padding[axis] -= begin * result_step[axis];
    }
    void select_kernel(int axis, int64_t begin, int64_t count) {
        kernel.select(axis, begin, count);
        padding[axis] -= begin * kernel_step[axis];
    }
    void select_source(int axis, int64_t begin, int64_t count) {
        source.select(axis, begin, count);
        padding[axis] += begin;
    }
    void select_results(const Tile& tile) {
        for (int axis = 0; axis < kAxes; ++axis) {
            select_results(axis, tile.begin[axis], tile.size[axis]);
        }
    }
    void select_kernel(const Tile& tile) {
        for (int axis = 0; axis < kAxes; ++axis) {
            select_kernel(axis, tile.begin[axis], tile.size[axis]);
        }
    }

    // Leaves out taps that meet no source, and what of the source meets no tap.
    void crop() {
        for (int axis = 0; axis < kAxes; ++axis) {
            // From what the first result meets at a tap to what the last one does.
            const int64_t results = (result.size[axis] - 1) * result_step[axis];
            const Steps taps = steps_inside(results - padding[axis], kernel_step[axis], source.size[axis] + results,
                                            kernel.size[axis]);
            select_kernel(axis, taps.begin, taps.count());
            const int64_t met = results + (kernel.size[axis] - 1) * kernel_step[axis] + 1;
            const Steps sources = steps_inside(padding[axis], 1, met, source.size[axis]);
            select_source(axis, sources.begin, sources.count());
        }
    }

    RowShape row_shape() const {
        return {result.size[2], kernel.size[2], source.size[2], result_step[2], kernel_step[2], padding[2]};
    }

    bool is_empty() const {
        return product(result.size) == 0 || product(kernel.size) == 0 || product(source.size) == 0;
    }
};

// An operation on some of the results or of the kernel, ready to run.
struct Part {
    Operation operation;
    RowPlanner rows;

    Part(const Operation& operation_, int64_t in_block)
        : operation(cropped(operation_)), rows(plan_rows(operation.row_shape(), in_block)) {}

 private:
    static Operation cropped(Operation operation) {
        operation.crop();
        return operation;
    }
};

// Which planes a work item takes: some channels of one image, or all of several images where there are few. As many as
// share a cache line in a channels_last tensor of T, or as have space in one.
template <typename T>
struct Lanes {
    static constexpr int64_t kPlanes = kBufferAlignment / sizeof(T);
    static_assert(kPlanes <= kMostPlanes);

    int64_t images, channels, block_channels, block_images;

    Lanes(int64_t images_, int64_t channels_) : images(images_), channels(channels_) {
        block_channels = std::clamp<int64_t>(channels, 1, kPlanes);
        block_images = std::clamp<int64_t>(kPlanes / block_channels, 1, std::max<int64_t>(images, 1));
    }

    int64_t first_channel(int64_t channel_block) const { return channel_block * block_channels; }
    int64_t channels_in(int64_t channel_block) const {
        return std::min(block_channels, channels - first_channel(channel_block));
    }
    int64_t channel_blocks() const { return ceil_div(channels, block_channels); }
    int64_t image_blocks() const { return ceil_div(images, block_images); }

    LanePlanes take(const Planes& planes, int64_t channel_block, int64_t image_block) const {
        const int64_t first_image = image_block * block_images;
        return take(planes, channel_block, first_image, std::min(block_images, images - first_image));
    }
    // The planes of kernels, which have no images.
    LanePlanes take(const Planes& planes, int64_t channel_block) const { return take(planes, channel_block, 0, 1); }

 private:
    LanePlanes take(const Planes& planes, int64_t channel_block, int64_t first_image, int64_t image_count) const {
        const int64_t channel_count = channels_in(channel_block);
        LanePlanes lanes{planes.data, planes.storage, channel_count * image_count, {}, planes.size, planes.stride};
        for (int64_t lane = 0; lane < lanes.count; ++lane) {
            lanes.first[lane] =
                planes.entry(first_image + lane / channel_count, first_channel(channel_block) + lane % channel_count);
        }
        return lanes;
    }
};

// One operation on the planes of one item after the other.
template <typename T>
class Correlator {
 public:
    explicit Correlator(const Lanes<T>& lanes) : lanes_(lanes) {}

    // Results (pixels, lanes) for every vector of an item, each the bias of its channel, or 0.
    void start_results(int64_t pixels, int64_t channel_block, const T* bias) {
        const int64_t planes = lanes_.channels_in(channel_block) * lanes_.block_images;
        results_.resize(ceil_div(planes, loops_.lanes), pixels * loops_.lanes);
        std::fill_n(results_.vector(0), results_.vectors * results_.vector_size, T(0));
        if (bias == nullptr) {
            return;
        }
        for (int64_t plane = 0; plane < planes; ++plane) {
            const T value = bias[lanes_.first_channel(channel_block) + plane % lanes_.channels_in(channel_block)];
            for (int64_t pixel = 0; pixel < pixels; ++pixel) {
                result(plane, pixel) = value;
            }
        }
    }
    T& result(int64_t plane, int64_t pixel) {
        return results_.vector(plane / loops_.lanes)[pixel * loops_.lanes + plane % loops_.lanes];
    }

    void load_kernel(const Part& part, int64_t channel_block, int64_t image_block) {
        load(part.operation.kernel, part.rows, Held::kernel, channel_block, image_block, kernels_);
    }
    void load_source(const Part& part, int64_t channel_block, int64_t image_block) {
        load(part.operation.source, part.rows, Held::source, channel_block, image_block, sources_);
    }

    // Adds to the results.
    void run(const Part& part) {
        const Operation& o = part.operation;
        for (int64_t v = 0; v < sources_.vectors; ++v) {
            loops_.correlation.correlate({results_.vector(v), kernels_.vector(v), sources_.vector(v), o.result.size,
                                          o.kernel.size, o.source.size, o.result_step, o.kernel_step, o.padding,
                                          part.rows.plan()});
        }
    }

    void store_results(const LanePlanes& planes) { loops_.planes.scatter(results_.vector(0), planes); }

 private:
    struct Buffer {
        AlignedVector<T> entries;
        int64_t vectors = 0, vector_size = 0;

        T* vector(int64_t index) { return entries.data() + index * vector_size; }
        void resize(int64_t vectors_, int64_t vector_size_) {
            vectors = vectors_;
            vector_size = vector_size_;
            entries.resize(std::max<size_t>(entries.size(), vectors * vector_size));
        }
    };

    void load(const Planes& operand_planes, const RowPlanner& rows, Held operand, int64_t channel_block,
              int64_t image_block, Buffer& buffer) {
        const LanePlanes planes = lanes_.take(operand_planes, channel_block, image_block);
        const int64_t row = planes.size[2] + rows.zeros(operand);
        buffer.resize(ceil_div(planes.count, loops_.lanes), planes.size[0] * planes.size[1] * row * loops_.lanes);
        loops_.planes.gather(planes, rows.before(operand), rows.after(operand), buffer.vector(0));
    }

    const Lanes<T>& lanes_;
    const InnerLoops<T>& loops_ = inner_loops<T>();
    Buffer results_, kernels_, sources_;
};

// Pixels of a tile that reads `step` as many along each axis.
int64_t pixels_of_tile(const Axes& step) {
    int64_t pixels = kTilePixels;
    for (const auto along : step) {
        pixels = std::max<int64_t>(pixels / along, 1);
    }
    return pixels;
}

// Runs an operation for every image and channel. bias: of the results, or null.
template <typename T>
void correlate_images(const Operation& operation, int64_t images, int64_t channels, const T* bias) {
    const InnerLoops<T>& loops = inner_loops<T>();
    const Lanes<T> lanes(images, channels);
    const int64_t blocks = lanes.channel_blocks() * lanes.image_blocks();
    const int64_t tile_pixels = std::min(std::max(blocks * product(operation.result.size) / kItems, kSmallestTile),
                                         pixels_of_tile(operation.result_step));
    const Tiling tiles(0, 1, operation.result.size, tile_pixels);
    std::vector<Part> parts;
    for (int64_t t = 0; t < tiles.count(); ++t) {
        if (const Tile tile = tiles[t]; tile.pixels() > 0) {
            Operation part = operation;
            part.select_results(tile);
            parts.emplace_back(part, loops.correlation.in_block);
        }
    }

    // Images are counted first: a worker keeps the kernel from one image to the next.
    const auto part_count = static_cast<int64_t>(parts.size());
    for_each_item(blocks * part_count, [&] {
        return [&, correlator = Correlator<T>(lanes), loaded = int64_t(-1)](int64_t item) mutable {
            const int64_t image_block = item % lanes.image_blocks(), outer = item / lanes.image_blocks();
            const int64_t channel_block = outer / part_count;
            const Part& part = parts[outer % part_count];
            const Planes& result = part.operation.result;
            correlator.start_results(product(result.size), channel_block, bias);
            if (!part.operation.is_empty()) {
                if (outer != loaded) {
                    correlator.load_kernel(part, channel_block, image_block);
                    loaded = outer;
                }
                correlator.load_source(part, channel_block, image_block);
                correlator.run(part);
            }
            correlator.store_results(lanes.take(result, channel_block, image_block));
        };
    });
}

// Runs an operation whose results are a kernel's, summed over images; the operation's kernel is images too, the
// output's gradient.
template <typename T>
void correlate_over_images(const Operation& operation, int64_t images, int64_t channels) {
    const InnerLoops<T>& loops = inner_loops<T>();
    const Lanes<T> lanes(images, channels);
    const int64_t taps = product(operation.result.size), row = operation.result.size[2];
    const int64_t box_count =
        std::max<int64_t>(std::min(kItems / std::max<int64_t>(lanes.channel_blocks(), 1), taps / kSmallestBox), 1);
    int64_t taps_of_box = ceil_div(taps, box_count);
    if (taps_of_box > row) {
        taps_of_box = round_up(taps_of_box, row);  // a part of a row would only make another box
    }
    const Tiling boxes(0, 1, operation.result.size, taps_of_box);
    const Tiling tiles(0, 1, operation.kernel.size, pixels_of_tile(operation.kernel_step));

    for_each_item(lanes.channel_blocks() * boxes.count(), [&] {
        return [&, correlator = Correlator<T>(lanes)](int64_t item) mutable {
            const int64_t channel_block = item / boxes.count();
            Operation box = operation;
            box.select_results(boxes[item % boxes.count()]);
            const int64_t box_taps = product(box.result.size);
            correlator.start_results(box_taps, channel_block, nullptr);
            for (int64_t t = 0; t < tiles.count(); ++t) {
                Operation tile = box;
                tile.select_kernel(tiles[t]);
                if (tile.is_empty()) {
                    continue;
                }
                const Part part(tile, loops.correlation.in_block);
                if (part.operation.is_empty()) {
                    continue;
                }
                for (int64_t image_block = 0; image_block < lanes.image_blocks(); ++image_block) {
                    correlator.load_kernel(part, channel_block, image_block);
                    correlator.load_source(part, channel_block, image_block);
                    correlator.run(part);
                }
            }
            // The planes of the first image take those of the others.
            const LanePlanes planes = lanes.take(box.result, channel_block);
            for (int64_t tap = 0; tap < box_taps; ++tap) {
                for (int64_t plane = planes.count; plane < planes.count * lanes.block_images; ++plane) {
                    correlator.result(plane % planes.count, tap) += correlator.result(plane, tap);
                }
            }
            correlator.store_results(planes);
        };
    });
}

// The correlations that make up the input's gradient: one for each remainder of a padded input pixel by the stride, of
// those that there are.
template <typename T>
void correlate_back(const Planes& grad_output, const Planes& kernel, const Planes& grad_input,
                    const ConvArguments& arguments, int64_t images, int64_t channels) {
    const Axes stride = three_axes(arguments.stride, 1), padding = three_axes(arguments.padding, 0);
    Axes phases{};  // how many there are along each axis; phase i starts at pixel i
    for (int axis = 0; axis < kAxes; ++axis) {
        phases[axis] = std::min(stride[axis], grad_input.size[axis]);
    }
    for (int64_t phase = 0; phase < product(phases); ++phase) {
        const Axes first{phase / (phases[1] * phases[2]), phase / phases[2] % phases[1], phase % phases[2]};
        Operation operation{grad_input, kernel, grad_output, {1, 1, 1}, {1, 1, 1}, {}};
        for (int axis = 0; axis < kAxes; ++axis) {
            const int64_t step = stride[axis], r = (first[axis] + padding[axis]) % step;
            const int64_t pixels = ceil_div(grad_input.size[axis] - first[axis], step);
            const int64_t taps = std::max<int64_t>(ceil_div(kernel.size[axis] - r, step), 0);
            operation.result.select(axis, first[axis], pixels, step);
            operation.kernel.select(axis, r + (taps - 1) * step, taps, -step);
            operation.padding[axis] = taps - 1 - (first[axis] + padding[axis]) / step;
        }
        correlate_images<T>(operation, images, channels, nullptr);
    }
}

}  // namespace

bool is_depthwise(const Tensor& input, const Tensor& kernel, const ConvArguments& arguments) {
    return arguments.groups == input.size(1) && kernel.size(0) == input.size(1);
}

Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                      const ConvArguments& arguments) {
    const ScalarType dtype = compute_dtype(input);
    const PreparedBias prepared_bias(bias, dtype);
    const Tensor output = empty_in_format_of(input, arguments.batched_output_shape());
    const Operation operation{Planes(output), Planes::of_kernels(kernel),
                              Planes(input),  three_axes(arguments.stride, 1),
                              {1, 1, 1},      three_axes(arguments.padding, 0)};
    dispatch_compute_dtype(dtype, [&]<typename T>() {
        correlate_images<T>(operation, output.size(0), output.size(1), prepared_bias.pointer<T>());
    });
    return output;
}

DenseGradients<Tensor> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                               const ConvArguments& arguments, const DenseGradients<bool>& wanted) {
    const ScalarType dtype = compute_dtype(input);
    const int64_t images = input.size(0), channels = input.size(1);
    const Tensor grad_input =
        wanted.input ? empty_in_format_of(input, sizes(input)) : not_computed(input.scalar_type(), input);
    const Tensor grad_kernel = empty_if(wanted.kernel, sizes(kernel), dtype, input);
    const Planes grad_output_planes(grad_output);

    dispatch_compute_dtype(dtype, [&]<typename T>() {
        if (wanted.input) {
            correlate_back<T>(grad_output_planes, Planes::of_kernels(kernel), Planes(grad_input), arguments, images,
                              channels);
        }
        if (wanted.kernel) {
            const Operation operation{Planes::of_kernels(grad_kernel),
                                      grad_output_planes,
                                      Planes(input),
                                      {1, 1, 1},
                                      three_axes(arguments.stride, 1),
                                      three_axes(arguments.padding, 0)};
            correlate_over_images<T>(operation, images, channels);
        }
    });
    return {grad_input, grad_kernel, bias_gradient(wanted.bias, grad_output, dtype)};
}

}  // namespace dcls::cpu
