// What the kernels of output and gradient of the input share: how the work is cut, and which part of the input and of
// the kernel a block reads.
#pragma once

#include "kernels.h"
#include "staging.h"

namespace dcls::cuda {

// A block's slots are images x channels. It makes a tile of their outputs at a time (Item), in steps: one for each
// block of taps of each term of the sum (Step).
struct CorrelatePlan {
    int channels, images, tile_rows, tile_columns, tap_rows, tap_columns;
    // How many there are.
    int channel_groups, image_groups, tiles_y, tiles_x, out_phases, tap_blocks_y, tap_blocks_x, terms;
    Divisor by_tile_x, by_tile_y, by_channel_group, by_image_group, by_tap_block_x, by_tap_block_y;
    Staging in, taps;

    __host__ __device__ int steps() const { return tap_blocks_y * tap_blocks_x * terms; }
    __host__ __device__ int64_t items() const {
        return int64_t{1} * channel_groups * image_groups * tiles_y * tiles_x * out_phases;
    }

    // Counts tiles and steps, once their extents are set.
    void count(Role role, const Problem& problem) {
        const PlaneMap map(role, problem, 0);  // no phase has more taps
        channel_groups = ceil_div(problem.channels_made(role), channels);
        image_groups = ceil_div(problem.images, images);
        tiles_y = ceil_div(most_outputs(role, problem.y), tile_rows);
        tiles_x = ceil_div(most_outputs(role, problem.x), tile_columns);
        out_phases = role == Role::forward ? 1 : problem.phases();
        tap_blocks_y = ceil_div(map.y.taps, tap_rows);
        tap_blocks_x = ceil_div(map.x.taps, tap_columns);
        terms = problem.terms(role);
        by_tile_x = Divisor(std::max(tiles_x, 1));
        by_tile_y = Divisor(std::max(tiles_y, 1));
        by_channel_group = Divisor(std::max(channel_groups, 1));
        by_image_group = Divisor(std::max(image_groups, 1));
        by_tap_block_x = Divisor(tap_blocks_x);
        by_tap_block_y = Divisor(tap_blocks_y);
    }
};

// The channels that a block may have for slots. A channel of input that goes into several of the output has no
// neighbours that are evenly apart.
inline int most_channel_slots(Role role, const Problem& problem) {
    return role == Role::forward && problem.multiplier > 1 ? 1 : std::max(problem.channels_made(role), 1);
}

// A tile of the outputs of one phase, in some slots.
struct Item {
    int channel, image, y, x, phase;  // the first ones

    __device__ Item(const CorrelatePlan& plan, int index) {
        x = plan.by_tile_x.split_off(index) * plan.tile_columns;
        y = plan.by_tile_y.split_off(index) * plan.tile_rows;
        channel = plan.by_channel_group.split_off(index) * plan.channels;
        image = plan.by_image_group.split_off(index) * plan.images;
        phase = index;
    }
};

// One step of its sum.
struct Step {
    int tap_x, tap_y, term;
    PlaneMap map;
    Met y, x;  // of the input

    __device__ Step(Role role, const Problem& problem, const CorrelatePlan& plan, const Item& item, int step)
        : tap_x(plan.by_tap_block_x.split_off(step) * plan.tap_columns),
          tap_y(plan.by_tap_block_y.split_off(step) * plan.tap_rows),
          term(step),
          map(role, problem, role == Role::forward ? term : item.phase),
          y(map.y, item.y + tap_y, plan.tile_rows + tap_rows(plan) - 1),
          x(map.x, item.x + tap_x, plan.tile_columns + plan.tap_columns - 1) {}

    // Not positive in phases that have fewer blocks of taps.
    __device__ int tap_rows(const CorrelatePlan& plan) const { return std::min(plan.tap_rows, map.y.taps - tap_y); }
    __device__ int tap_columns(const CorrelatePlan& plan) const {
        return std::min(plan.tap_columns, map.x.taps - tap_x);
    }
};

// All threads of a block copy what a step reads, among zeros: shared memory has `entries`, the input first. Taps are
// copied to as many images of their slots as they have, from `first_tap` on. `batch` is Staging::copy's.
template <int batch, typename T>
__device__ void stage(Role role, const Problem& problem, const CorrelatePlan& plan, const Item& item, int number,
                      const Planes<const T>& in, const Planes<const T>& kernel, T* staged_in, int entries,
                      T* staged_taps, int tap_copies, int first_tap) {
    const Step step(role, problem, plan, item, number);
    const Sources sources(role, problem, item.channel, step.term);
    const int channels = std::min(plan.channels, problem.channels_made(role) - item.channel);
    const int images = std::min(plan.images, problem.images - item.image);
    __syncthreads();  // what was staged has been read
    clear(staged_in, entries);
    __syncthreads();
    plan.in.copy<batch>(
        staged_in,
        Box<T>(in, item.image, images, sources.in, channels, sources.apart, step.map.y.in.from(step.y.first),
               step.y.count, step.map.x.in.from(step.x.first), step.x.count),
        step.x.first - step.x.reach);
    Box<T> taps(kernel, 0, tap_copies, sources.kernel, channels, sources.apart, step.map.y.tap.from(step.tap_y),
                step.tap_rows(plan), step.map.x.tap.from(step.tap_x), step.tap_columns(plan));
    taps.image = 0;
    plan.taps.copy(staged_taps, taps, first_tap);
    copy_wait();
    __syncthreads();
}

}  // namespace dcls::cuda
