// Filters as lists of the taps that their elements touch.
#pragma once

#include "boxes.h"
#include "filter_tables.h"

namespace dcls::cpu {

// From which side results are summed: from the input to the output, or back.
enum class Direction { forward, back };

// How far the taps reach, in pixels of a grid.
inline Axes reach_of(const Geometry& geometry) {
    Axes reach{};
    for (int axis = 0; axis < kAxes; ++axis) {
        reach[axis] = (geometry.kernel_size[axis] - 1) / geometry.stride[axis];
    }
    return reach;
}

// The taps that lead from a channel of results to some source channels, each once, with the sum of what the elements
// of a filter add to it. A list for each grid of results: back, taps of different grids add to different grids; forward
// they read from different grids.
template <typename T>
class TouchedTaps {
 public:
    // window: the layout of the sources, with so many images together.
    TouchedTaps(const Geometry& geometry, Direction direction, const Side& input, const Layout& window,
                int64_t together)
        : extent_(geometry.kernel_size),
          kernel_count_(geometry.kernel_count),
          channel_(window.channel),
          places_(extent_[0] * extent_[1] * extent_[2], kNone),
          lists_(direction == Direction::forward ? 1 : input.grid_count()) {
        const std::array<int64_t, kAxes> step{window.plane, window.row, together};
        const Axes reach = reach_of(geometry);
        for (int axis = 0; axis < kAxes; ++axis) {
            for (int64_t tap = 0; tap < extent_[axis]; ++tap) {
                const int64_t stride = geometry.stride[axis], pixel = tap / stride;
                const int64_t grid = tap % stride * input.grid_step(axis);
                const bool is_forward = direction == Direction::forward;
                offsets_[axis].push_back(is_forward ? grid * window.grid + pixel * step[axis]
                                                    : (reach[axis] - pixel) * step[axis]);
                grids_[axis].push_back(is_forward ? 0 : grid);
            }
        }
    }

    void clear() {
        for (std::vector<Tap<T>>& list : lists_) {
            list.clear();
        }
    }

    // Adds the taps of the filter that leads to a source channel, whose elements have these factors and weights.
    template <Version version, bool with_derivatives>
    void add(int64_t source, const FilterFactors<version, T, with_derivatives>& factors, const T* weight) {
        numbers_.clear();
        for (int64_t k = 0; k < kernel_count_; ++k) {
            const AxisFactors<T>* axes = factors.element(k);
            add_outer_product(source, axes, weight[k] / normalisation<version>(sums(axes)));
        }
        for (const int32_t number : numbers_) {
            places_[number] = kNone;
        }
    }

    // Where positions are integers, most touched taps have a factor of 0.
    void drop_zeros() {
        for (std::vector<Tap<T>>& list : lists_) {
            std::erase_if(list, [](const Tap<T>& tap) { return tap.coefficient == T(0); });
        }
    }

    std::vector<Tap<T>>& list(int64_t grid) { return lists_[grid]; }
    // In the filter, those of the filter added last; forward, in the order of the list.
    const std::vector<int32_t>& numbers() const { return numbers_; }

 private:
    static constexpr int32_t kNone = -1;

    void add_outer_product(int64_t source, const AxisFactors<T>* axes, T scale) {
        for (int64_t z = axes[0].range.begin; z < axes[0].range.end; ++z) {
            for (int64_t y = axes[1].range.begin; y < axes[1].range.end; ++y) {
                const T row_scale = scale * axes[0].value[z] * axes[1].value[y];
                const int64_t row = (z * extent_[1] + y) * extent_[2], row_grid = grids_[0][z] + grids_[1][y];
                const int64_t row_offset = source * channel_ + offsets_[0][z] + offsets_[1][y];
                for (int64_t x = axes[2].range.begin; x < axes[2].range.end; ++x) {
                    std::vector<Tap<T>>& list = lists_[row_grid + grids_[2][x]];
                    int32_t& place = places_[row + x];
                    if (place == kNone) {
                        place = static_cast<int32_t>(list.size());
                        list.push_back({row_offset + offsets_[2][x], T(0)});
                        numbers_.push_back(static_cast<int32_t>(row + x));
                    }
                    list[place].coefficient += row_scale * axes[2].value[x];
                }
            }
        }
    }

    Axes extent_;
    int64_t kernel_count_, channel_;
    std::array<std::vector<int64_t>, kAxes> offsets_, grids_;  // of a tap: the sum over the axes
    std::vector<int32_t> places_;                              // in the lists, of every tap of the filter
    std::vector<int32_t> numbers_;
    std::vector<std::vector<Tap<T>>> lists_;
};

}  // namespace dcls::cpu
