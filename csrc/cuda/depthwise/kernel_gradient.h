// What the kernels of a kernel's gradient share: how the work is cut, and which parts of the input and of grad_output a
// block reads.
#pragma once

#include "../../dispatch.h"
#include "../tuning.h"
#include "kernels.h"
#include "staging.h"

namespace dcls::cuda {

// A block makes a block of taps of some channels, summed over a chunk of images (Item), in steps: one for each group of
// staged images at each tile of grad_output (Step).
struct GradientPlan {
    int channels, images, tap_rows, tap_columns, tile_rows, tile_columns;
    int in_columns;  // that a tile meets
    int chunk;       // images
    // How many there are.
    int chunks, channel_groups, tap_blocks_y, tap_blocks_x, phases, tiles_y, tiles_x, image_groups;
    Divisor by_image, by_tap_block_x, by_tap_block_y, by_channel_group, by_chunk, by_image_group, by_tile_x;
    Staging grad, in;

    __host__ __device__ int steps() const { return tiles_y * tiles_x * image_groups; }
    __host__ __device__ int64_t items() const {
        return int64_t{1} * chunks * channel_groups * phases * tap_blocks_y * tap_blocks_x;
    }

    // Room for the planes of a step, once extents are set; a block has `threads`.
    template <typename T>
    void make_room(const Problem& problem, const Planes<const T>& in_planes, const Planes<const T>& grad_planes,
                   int threads) {
        const PlaneMap map(Role::grad_kernel, problem, 0);                             // no phase has more outputs
        const bool in_pieces = problem.x.stride == 1 && tap_columns == map.x.outputs;  // else rows start anywhere
        const int rows = std::min(tile_rows + tap_rows - 1, ceil_div(map.y.in_extent, map.y.in.step));
        const int copied = std::min(in_columns, ceil_div(map.x.in_extent, map.x.in.step));
        Piece of_grad{1, channels}, of_in{1, channels};
        if (channels == 1) {
            of_grad.columns = columns_at_once(grad_planes, map.x.tap.first, map.x.taps);
            of_in.columns = in_pieces ? columns_at_once(in_planes, map.x.in.first, map.x.in_extent) : 1;
        }
        grad = Staging::room_for<T>(Staging::Neighbours::images, images, channels, tile_rows, tile_columns, 0,
                                    std::min(tile_columns, map.x.taps), of_grad, threads);
        in = Staging::room_for<T>(Staging::Neighbours::images, images, channels, rows, in_columns,
                                  in_pieces && tile_columns >= map.x.taps ? map.x.inside().begin : 0, copied, of_in,
                                  threads);
    }

    void count(const Problem& problem) {
        const PlaneMap map(Role::grad_kernel, problem, 0);
        chunks = ceil_div(problem.images, chunk);
        channel_groups = ceil_div(problem.out_channels(), channels);
        tap_blocks_y = ceil_div(map.y.outputs, tap_rows);
        tap_blocks_x = ceil_div(map.x.outputs, tap_columns);
        phases = problem.phases();
        tiles_y = ceil_div(map.y.taps, tile_rows);
        tiles_x = ceil_div(map.x.taps, tile_columns);
        image_groups = ceil_div(chunk, images);
        by_image = Divisor(images);
        by_tap_block_x = Divisor(tap_blocks_x);
        by_tap_block_y = Divisor(tap_blocks_y);
        by_channel_group = Divisor(std::max(channel_groups, 1));
        by_chunk = Divisor(std::max(chunks, 1));
        by_image_group = Divisor(image_groups);
        by_tile_x = Divisor(std::max(tiles_x, 1));
    }
};

// Kernels add up chunks of images, of which there are enough to keep a GPU busy if blocks take this many channels each;
// the sums of chunks are added up afterwards.
inline int images_of_chunk(const Problem& problem, int channels_of_block) {
    const int64_t blocks = ceil_div(std::max(problem.out_channels(), 1), channels_of_block);
    return std::max(ceil_div(problem.images, static_cast<int>(std::max<int64_t>(kWantedBlocks / blocks, 1))), 1);
}
inline Tensor empty_chunks(const Problem& problem, int chunks, const Tensor& input) {
    return empty({chunks, problem.out_channels(), problem.y.kernel, problem.x.kernel}, compute_dtype(input), input);
}

// A block of taps of one phase, in some channels, summed over a chunk of images.
struct GradientItem {
    int channel, chunk, tap_y, tap_x, phase;

    __device__ GradientItem(const GradientPlan& plan, int index) {
        tap_x = plan.by_tap_block_x.split_off(index) * plan.tap_columns;
        tap_y = plan.by_tap_block_y.split_off(index) * plan.tap_rows;
        channel = plan.by_channel_group.split_off(index) * plan.channels;
        chunk = plan.by_chunk.split_off(index);
        phase = index;
    }
};

// One step of its sum: a tile of grad_output, in some images.
struct GradientStep {
    int image, images, tile_x, tile_y;
    PlaneMap map;
    Met y, x;  // of the input

    __device__ GradientStep(const Problem& problem, const GradientPlan& plan, const GradientItem& item, int step)
        : image(item.chunk * plan.chunk + plan.by_image_group.split_off(step) * plan.images),
          images(std::min({plan.images, (item.chunk + 1) * plan.chunk - image, problem.images - image})),
          tile_x(plan.by_tile_x.split_off(step) * plan.tile_columns),
          tile_y(step * plan.tile_rows),
          map(Role::grad_kernel, problem, item.phase),
          y(map.y, tile_y + item.tap_y, tile_rows(plan) + plan.tap_rows - 1),
          x(map.x, tile_x + item.tap_x, plan.in_columns) {}

    __device__ int tile_rows(const GradientPlan& plan) const { return std::min(plan.tile_rows, map.y.taps - tile_y); }
    __device__ int tile_columns(const GradientPlan& plan) const {
        return std::min(plan.tile_columns, map.x.taps - tile_x);
    }
};

// All threads of a block copy what a step reads, among zeros: shared memory has `entries`, grad_output first. `batch`
// is Staging::copy's.
template <int batch, typename T>
__device__ void stage(const Problem& problem, const GradientPlan& plan, const GradientItem& item, int number,
                      const Planes<const T>& in, const Planes<const T>& grad, T* staged_grad, T* staged_in,
                      int entries) {
    const GradientStep step(problem, plan, item, number);
    __syncthreads();  // what was staged has been read
    if (plan.by_image_group.is_multiple(number) || step.images < plan.images) {
        clear(staged_grad, entries);  // else the last step has copied to the same places
        __syncthreads();
    }
    plan.grad.copy<batch>(
        staged_grad,
        Box<T>(grad, step.image, step.images, item.channel, plan.channels, 1, step.map.y.tap.from(step.tile_y),
               step.tile_rows(plan), step.map.x.tap.from(step.tile_x), step.tile_columns(plan)),
        0);
    plan.in.copy<batch>(
        staged_in,
        Box<T>(in, step.image, step.images, item.channel / problem.multiplier, plan.channels, 1,
               step.map.y.in.from(step.y.first), step.y.count, step.map.x.in.from(step.x.first), step.x.count),
        step.x.first - step.x.reach);
    copy_wait();
    __syncthreads();
}

}  // namespace dcls::cuda
