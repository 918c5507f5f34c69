// Filters as lists of the taps that their elements touch.
#pragma once

#include "../filter_factors.h"
#include "boxes.h"
#include "conv_direct.h"

namespace dcls::cpu {

// The gradients of listed taps, and where in their filters they belong.
template <typename T>
class TapGradients {
 public:
    // taps, numbers: of entries, those of a filter up to its end, then those of the next one. An entry has the taps
    // `number` and `number + second` of its filter. The coefficients become 0.
    TapGradients(std::vector<Tap<T>> taps, std::vector<int32_t> numbers, std::vector<size_t> filter_ends,
                 int64_t second, Pairing pairing)
        : taps_(std::move(taps)),
          numbers_(std::move(numbers)),
          filter_ends_(std::move(filter_ends)),
          second_(second),
          pairing_(pairing) {
        for (Tap<T>& tap : taps_) {
            tap.coefficients = {};
        }
    }

    TapList<T> list() { return {taps_.data(), static_cast<int64_t>(taps_.size()), pairing_}; }

    // Calls body(number of the filter) with grad_taps set to the gradient of each filter's taps in turn; they are 0
    // before and after.
    template <typename Body>
    void for_each_filter(T* grad_taps, const Body& body) const {
        size_t begin = 0;
        for (size_t filter = 0; filter < filter_ends_.size(); ++filter) {
            const size_t end = filter_ends_[filter];
            // The second of each first: without pairs it is the same tap.
            for (size_t entry = begin; entry < end; ++entry) {
                grad_taps[numbers_[entry] + second_] = taps_[entry].coefficients[1];
                grad_taps[numbers_[entry]] = taps_[entry].coefficients[0];
            }
            body(static_cast<int64_t>(filter));
            for (size_t entry = begin; entry < end; ++entry) {
                grad_taps[numbers_[entry] + second_] = T(0);
                grad_taps[numbers_[entry]] = T(0);
            }
            begin = end;
        }
    }

 private:
    std::vector<Tap<T>> taps_;
    std::vector<int32_t> numbers_;
    std::vector<size_t> filter_ends_;
    int64_t second_;
    Pairing pairing_;
};

// The taps that lead from a channel of results to some source channels, with the sum of what the elements of a filter
// add to them. A list for each phase of results: back, taps of different phases add to different phases; forward they
// read from different phases.
//
// Where neighbouring taps along some axis are of one phase, and elements touch both, taps are listed in pairs along it:
// of rows, an element of two as one pair for each of its pixels in a row. Elements share the entries that both have. A
// tap may be in two entries then.
template <typename T>
class TouchedTaps {
 public:
    // window: the layout of the sources; bundle: images of one.
    TouchedTaps(const Geometry& geometry, Pass pass, const Side& input, const Layout& window, int64_t bundle)
        : extent_(geometry.kernel_size),
          kernel_count_(geometry.kernel_count),
          channel_(window.channel),
          is_forward_(pass == Pass::forward),
          pairing_(choose_pairing(geometry, bundle)),
          paired_axis_(pairing_ == Pairing::pixels ? 2 : 1),
          other_axis_(3 - paired_axis_),
          number_step_{extent_[1] * extent_[2], extent_[2], 1},
          second_offset_(pairing_ == Pairing::rows ? window.row : bundle),
          entries_(extent_[0] * extent_[1] * extent_[2], kNone),
          lists_(is_forward_ ? 1 : input.phase_count()),
          pairings_(lists_.size(), pairing_) {
        const std::array<int64_t, kAxes> step{window.plane, window.row, bundle};
        const Axes reach = reach_of(geometry);
        for (int axis = 0; axis < kAxes; ++axis) {
            for (int64_t tap = 0; tap < extent_[axis]; ++tap) {
                const int64_t stride = geometry.stride[axis], pixel = tap / stride;
                const int64_t phase = tap % stride * input.phase_step(axis);
                offsets_[axis].push_back(is_forward_ ? phase * window.phase + pixel * step[axis]
                                                     : (reach[axis] - pixel) * step[axis]);
                phases_[axis].push_back(is_forward_ ? 0 : phase);
            }
        }
    }

    void clear() {
        for (std::vector<Tap<T>>& list : lists_) {
            list.clear();
        }
        pairings_.assign(lists_.size(), pairing_);
        numbers_.clear();
        filter_ends_.clear();
    }

    // Adds the taps of the filter that leads to a source channel, whose elements have these factors and weights.
    template <Version version, bool with_derivatives>
    void add(int64_t source, const FilterFactors<version, T, with_derivatives>& factors, const T* weight) {
        const size_t begin = numbers_.size();
        for (int64_t k = 0; k < kernel_count_; ++k) {
            const AxisFactors<T>* axes = factors.element(k);
            add_outer_product(source, axes, weight[k] / normalisation<version>(sums(axes)));
        }
        for (size_t entry = begin; entry < numbers_.size(); ++entry) {
            entries_[numbers_[entry]] = kNone;
        }
        filter_ends_.push_back(numbers_.size());
    }

    // Where positions are integers, most touched taps have a factor of 0: they are left out, and so is the pairing, if
    // it leaves every pair with one tap.
    void drop_zeros() {
        for (size_t phase = 0; phase < lists_.size(); ++phase) {
            std::vector<Tap<T>>& list = lists_[phase];
            std::erase_if(list,
                          [](const Tap<T>& tap) { return tap.coefficients[0] == T(0) && tap.coefficients[1] == T(0); });
            const bool has_pairs = std::ranges::any_of(
                list, [](const Tap<T>& tap) { return tap.coefficients[0] != T(0) && tap.coefficients[1] != T(0); });
            pairings_[phase] = has_pairs ? pairing_ : Pairing::none;
            for (Tap<T>& tap : list) {
                if (!has_pairs && tap.coefficients[0] == T(0)) {
                    tap = {tap.offset + second_offset_, {tap.coefficients[1], T(0)}};
                }
            }
        }
    }

    TapList<T> list(int64_t phase) {
        return {lists_[phase].data(), static_cast<int64_t>(lists_[phase].size()), pairings_[phase]};
    }

    // For the gradients of all that were added; forward.
    TapGradients<T> gradients() const {
        return {lists_[0], numbers_, filter_ends_, is_paired() ? number_step_[paired_axis_] : 0, pairing_};
    }

 private:
    static constexpr int32_t kNone = -1;

    static Pairing choose_pairing(const Geometry& geometry, int64_t bundle) {
        const auto is_pairable = [&](int axis) {
            return geometry.first_axis <= axis && geometry.kernel_size[axis] > 1 && geometry.stride[axis] == 1 &&
                   geometry.output[axis] > 1;
        };
        if (is_pairable(1)) {
            return Pairing::rows;
        }
        const bool is_one_row = geometry.kernel_size[1] == 1 && geometry.output[1] == 1;
        return bundle > 1 && is_one_row && is_pairable(2) ? Pairing::pixels : Pairing::none;
    }

    bool is_paired() const { return pairing_ != Pairing::none; }

    void add_outer_product(int64_t source, const AxisFactors<T>* axes, T scale) {
        const int64_t in_entry = is_paired() ? 2 : 1;
        const AxisFactors<T>& paired = axes[paired_axis_];
        const TapRange range = paired.range;
        // More than two taps: the same pairs for all elements, which share them.
        const bool is_shared = kernel_count_ > 1 && range.end - range.begin > in_entry;
        const int64_t begin = is_shared ? range.begin / in_entry * in_entry : range.begin;
        for (int64_t z = axes[0].range.begin; z < axes[0].range.end; ++z) {
            for (int64_t tap = begin; tap < range.end; tap += in_entry) {
                const int64_t first = std::min(tap, extent_[paired_axis_] - in_entry);
                // What both taps multiply by; 0 where the element does not touch, or has added to before.
                std::array<T, 2> scales{};
                for (int64_t t = std::max(tap, range.begin); t < std::min(first + in_entry, range.end); ++t) {
                    scales[t - first] = scale * axes[0].value[z] * paired.value[t];
                }
                // Back, the second tap reads before the first.
                const int64_t reads_first = is_forward_ ? first : first + in_entry - 1;
                if (is_paired() && !is_forward_) {
                    std::swap(scales[0], scales[1]);
                }
                add_entries(source * channel_ + offsets_[0][z] + offsets_[paired_axis_][reads_first],
                            phases_[0][z] + phases_[paired_axis_][first],
                            z * number_step_[0] + first * number_step_[paired_axis_], axes[other_axis_], scales);
            }
        }
    }

    // Entries along the other axis, from tap `number` of the filter on.
    void add_entries(int64_t offset, int64_t phase, int64_t number, const AxisFactors<T>& axis,
                     const std::array<T, 2>& scales) {
        for (int64_t tap = axis.range.begin; tap < axis.range.end; ++tap) {
            std::vector<Tap<T>>& list = lists_[phase + phases_[other_axis_][tap]];
            const int64_t tap_number = number + tap * number_step_[other_axis_];
            int32_t& entry = entries_[tap_number];
            if (entry == kNone) {
                entry = static_cast<int32_t>(list.size());
                list.push_back({offset + offsets_[other_axis_][tap], {}});
                numbers_.push_back(static_cast<int32_t>(tap_number));
            }
            for (int i = 0; i < 2; ++i) {
                list[entry].coefficients[i] += scales[i] * axis.value[tap];
            }
        }
    }

    Axes extent_;
    int64_t kernel_count_, channel_;
    bool is_forward_;
    Pairing pairing_;
    int paired_axis_, other_axis_;                              // the last two
    Axes number_step_;                                          // of a tap's number in the filter
    int64_t second_offset_;                                     // from where a pair's first tap reads to the second
    std::array<std::vector<int64_t>, kAxes> offsets_, phases_;  // of a tap: the sum over the axes
    std::vector<int32_t> entries_;                              // of every tap of a filter, in the lists
    std::vector<int32_t> numbers_;                              // of the first tap of each entry, in its filter
    std::vector<size_t> filter_ends_;                           // in the numbers
    std::vector<std::vector<Tap<T>>> lists_;
    std::vector<Pairing> pairings_;  // of the lists
};

}  // namespace dcls::cpu
