// The gradient of a depthwise kernel in float32 and float64, as depthwise_maps.h has it: outputs are few, a kernel's
// taps, and each is a sum over all images and pixels.
//
// A warp makes a row of taps; its lanes share out the rows of grad_output that have a partner in the input, of all
// staged images. A lane walks along its row, a vector at a time: with a window of the input's row in registers, which
// turns by a vector each step, 4 entries of grad_output meet 17 taps in 68 multiply-adds for two vectors loaded.
//
//     grad_output, row y          g g g g
//     input, row y + j        w w w w w w w w w w ...   window of 4 + taps - 1 entries
//
// A block stages some images of a channel at a time (staging.h), and adds up a chunk of all images. In channels_last
// tensors it takes as many channels as fill a vector, and a warp's lanes share them out. The sums of lanes are added at
// the end, those of chunks by another kernel: everything in an order that depends on shapes only.
//
// Bound by the issue of multiply-adds: with 17 taps, they are 91% of the loop's instructions.
//
// Rows are read in whole vectors: an infinite or NaN entry may show in taps that do not meet it, as 0 times it.
#include "kernel_gradient.h"

#include "../warp_sum.h"

namespace dcls::cuda {
namespace {

constexpr int64_t kSharedBytes = 96 << 10;
constexpr int kMostTapRows = 18;  // warps of a block
constexpr int kMostWindow = 9;    // vectors
constexpr int kMostTileRows = 256, kMostTileColumns = 256;

// Taps of a row that a window takes: all that meet a whole vector of grad_output.
template <typename T>
constexpr int taps_of(int window) {
    return (window - 1) * kVector<T> + 1;
}

__host__ __device__ int entries(const GradientPlan& plan) { return plan.grad.entries() + plan.in.entries(); }

template <typename T>
int64_t bytes(const GradientPlan& plan) {
    return int64_t{sizeof(T)} * entries(plan);
}

template <typename T>
GradientPlan make_plan(const Problem& problem, int channels, const Planes<const T>& in, const Planes<const T>& grad,
                       int64_t shared_bytes) {
    const PlaneMap map(Role::grad_kernel, problem, 0);  // no phase has more outputs
    GradientPlan plan{};
    plan.channels = channels;
    plan.chunk = images_of_chunk(problem, channels);
    plan.tap_rows = even_share(map.y.outputs, kMostTapRows);
    plan.tap_columns = even_share(map.x.outputs, taps_of<T>(kMostWindow));
    plan.images = 1;
    plan.tile_rows = std::min(std::max(map.y.taps, 1), kMostTileRows);
    plan.tile_columns = std::min(round_up(std::max(map.x.taps, 1), kVector<T>), kMostTileColumns);
    const auto fits = [&] {
        plan.in_columns = plan.tile_columns + round_up(plan.tap_columns, kVector<T>);
        plan.make_room(problem, in, grad, plan.tap_rows * kWarp);
        return bytes<T>(plan) <= shared_bytes;
    };
    while (!fits()) {
        int& too_many = plan.tile_rows > 16 ? plan.tile_rows : plan.tile_columns;
        too_many = ceil_div(too_many, 2);
        plan.tile_columns = round_up(plan.tile_columns, kVector<T>);
    }
    fill_with_images(plan.images, plan.chunk, std::max(in.image, grad.image), fits);
    plan.count(problem);
    return plan;
}

// sums[i] += a row of grad_output times a row of input, shifted by i, `columns` entries long.
template <int window, typename T>
__device__ void add_row(T (&sums)[taps_of<T>(window)], const T* grad, const T* in, int columns) {
    constexpr int vector = kVector<T>;
    Vector<T> seen[window];  // vector n of the input's row at n % window
#pragma unroll
    for (int v = 0; v < window - 1; ++v) {
        seen[v] = load_vector(in + v * vector);
    }
    for (int x = 0; x < columns; x += window * vector) {
#pragma unroll
        for (int step = 0; step < window; ++step) {
            const int at = x + step * vector;
            if (at >= columns) {  // the same for all threads
                break;
            }
            seen[(step + window - 1) % window] = load_vector(in + at + (window - 1) * vector);
            const Vector<T> four = load_vector(grad + at);
#pragma unroll
            for (int k = 0; k < vector; ++k) {
#pragma unroll
                for (int i = 0; i < taps_of<T>(window); ++i) {
                    sums[i] += four.at[k] * seen[(step + (k + i) / vector) % window].at[(k + i) % vector];
                }
            }
        }
    }
}

// The lanes of a warp that have the same channel add up their sums; the first of them stores a row of taps.
template <int lanes, int taps, typename T>
__device__ void store(const Problem& problem, const GradientPlan& plan, int index, const T (&sums)[taps], T* chunks) {
    const GradientItem item(plan, index);
    const PlaneMap map(Role::grad_kernel, problem, item.phase);
    const int lane = thread_index() % kWarp, channel = item.channel + lane / lanes;
    const int tap_y = item.tap_y + thread_index() / kWarp;
    T* const row = chunks + (int64_t{item.chunk} * problem.out_channels() + channel) * problem.kernel_entries() +
                   map.y.out[tap_y] * problem.x.kernel;
#pragma unroll
    for (int i = 0; i < taps; ++i) {
        const T sum = warp_sum<lanes>(sums[i]);
        if (lane % lanes == 0 && tap_y < map.y.outputs && i < plan.tap_columns && item.tap_x + i < map.x.outputs) {
            row[map.x.out[item.tap_x + i]] = sum;
        }
    }
}

// Two blocks of 17 warps fill a multiprocessor, if a thread takes 56 registers. (Of a window of 4, nvcc would spill
// some.)
template <int window, typename T>
constexpr int kBlocks = window * sizeof(T) <= 20 && window != 4 ? 2 : 1;

template <bool by_pixels, int window, typename T>
__global__ void __launch_bounds__(kMostTapRows* kWarp, kBlocks<window, T>)
    kernel_gradient_rows(Problem problem, GradientPlan plan, Planes<const T> in, Planes<const T> grad, T* chunks) {
    T* const staged_grad = shared_memory<T>();
    T* const staged_in = staged_grad + plan.grad.entries();
    constexpr int lanes = by_pixels ? kWarp / kVector<T> : kWarp;  // of a channel

    for_each_item(static_cast<int>(plan.items()), [&](int index) {
        T sums[taps_of<T>(window)] = {};
        for (int number = 0; number < plan.steps(); ++number) {
            const GradientItem item(plan, index);
            stage<by_pixels ? 1 : 0>(problem, plan, item, number, in, grad, staged_grad, staged_in, entries(plan));
            const GradientStep step(problem, plan, item, number);
            const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
            // The tile's rows that meet a row of input at this warp's taps.
            const int above = step.y.reach + warp - step.y.first;
            const int begin = std::max(-above, 0), end = std::min(plan.tile_rows, step.y.count - above);
            // Pairs of a row and an image.
            for (int pair = lane % lanes; pair < (end - begin) * plan.images; pair += lanes) {
                int row = pair;
                const int image = plan.by_image.split_off(row);
                row += begin;
                add_row<window>(sums, staged_grad + plan.grad.slot(image, lane / lanes) + row * plan.grad.pitch(),
                                staged_in + plan.in.slot(image, lane / lanes) + (above + row) * plan.in.pitch(),
                                plan.tile_columns);
            }
        }
        store<lanes>(problem, plan, opaque(index), sums, chunks);
    });
}

}  // namespace

template <typename T>
std::optional<Tensor> kernel_gradient(const Problem& problem, const Tensor& input, const Tensor& grad_output) {
    const bool by_pixels = problem.multiplier == 1 &&
                           channels_at_once(Planes<const T>(input), kVector<T>, problem.channels) > 1 &&
                           channels_at_once(Planes<const T>(grad_output), kVector<T>, problem.channels) > 1;
    const int channels = by_pixels ? kVector<T> : 1;
    const Tensor in = by_pixels ? input : whole_planes(input);
    const Tensor grad = by_pixels ? grad_output : whole_planes(grad_output);
    const Planes<const T> in_planes(in), grad_planes(grad);
    const GradientPlan plan =
        make_plan<T>(problem, channels, in_planes, grad_planes, std::min(kSharedBytes, most_shared_bytes(in)));
    if (plan.items() > kMostItems) {
        return std::nullopt;
    }
    const Tensor chunks = empty_chunks(problem, plan.chunks, input);
    const Launcher launch(in);
    dispatch_count<1, kMostWindow>(ceil_div(plan.tap_columns - 1, kVector<T>) + 1, [&]<int window>() {
        launch(by_pixels ? kernel_gradient_rows<true, window, T> : kernel_gradient_rows<false, window, T>, plan.items(),
               plan.tap_rows * kWarp, bytes<T>(plan), problem, plan, in_planes, grad_planes,
               static_cast<T*>(chunks.mutable_data_ptr()));
    });
    return sum_over(chunks, {0});
}

template std::optional<Tensor> kernel_gradient<float>(const Problem&, const Tensor&, const Tensor&);
template std::optional<Tensor> kernel_gradient<double>(const Problem&, const Tensor&, const Tensor&);

}  // namespace dcls::cuda
