// Interpolation of one in channel at one element, for a tile of output pixels, forward and back.
//
// The window of the padded input that the tile reads passes through one short filter per axis, last axis first, at the
// element's touched taps (pass_loops.h). Backward goes through the passes in reverse; the gradient of a pass in a
// factor is a dot product. Factors are not normalised.
#pragma once

#include "../filter_factors.h"
#include "../planes.h"

namespace dcls::cpu {

// The part of a padded input channel that a tile reads at the taps of some elements, and its gradient.
template <typename T>
class Window {
 public:
    explicit Window(const Geometry& geometry) : geometry_(geometry) {}

    // Sets the extent, not the contents; false if no element touches a tap.
    bool fit(const Tile& tile, const auto& factors) {
        Axes last_tap{};
        first_tap_ = geometry_.kernel_size;
        for (int64_t k = 0; k < geometry_.kernel_count; ++k) {
            for (int axis = 0; axis < kAxes; ++axis) {
                const TapRange range = factors.element(k)[axis].range;
                if (range.begin < range.end) {
                    first_tap_[axis] = std::min(first_tap_[axis], range.begin);
                    last_tap[axis] = std::max(last_tap[axis], range.end - 1);
                }
            }
        }
        images_ = tile.images;
        int64_t entries = images_;
        for (int axis = 0; axis < kAxes; ++axis) {
            if (first_tap_[axis] > last_tap[axis]) {
                return false;
            }
            begin_[axis] = tile.begin[axis] * geometry_.stride[axis] - geometry_.padding[axis] + first_tap_[axis];
            size_[axis] = (tile.size[axis] - 1) * geometry_.stride[axis] + last_tap[axis] - first_tap_[axis] + 1;
            entries *= size_[axis];
        }
        entries_.resize(std::max<size_t>(entries_.size(), entries));
        return true;
    }

    void load(const Planes& input, const Tile& tile, int64_t channel) {
        for_each_row([&](T* row, int64_t n, int64_t z, int64_t y, bool inside, int64_t before, int64_t count) {
            if (!inside) {
                std::fill_n(row, size_[2], T(0));
                return;
            }
            std::fill_n(row, before, T(0));
            input.read(tile.first_image + n, channel, {z, y, begin_[2] + before}, 1, count, row + before);
            std::fill_n(row + before + count, size_[2] - before - count, T(0));
        });
    }

    void clear() { std::fill_n(entries_.data(), images_ * size_[0] * size_[1] * size_[2], T(0)); }

    // gradient: that of the input (N, I, *spatial), contiguous.
    void add_to(T* gradient, const Tile& tile, int64_t channel) {
        const Axes& size = geometry_.input;
        const int64_t channels = geometry_.groups * geometry_.in_channels_per_group;
        for_each_row([&](const T* row, int64_t n, int64_t z, int64_t y, bool inside, int64_t before, int64_t count) {
            if (!inside) {
                return;
            }
            const int64_t plane = (tile.first_image + n) * channels + channel;
            T* __restrict to = gradient + ((plane * size[0] + z) * size[1] + y) * size[2] + begin_[2] + before;
            const T* __restrict from = row + before;
            for (int64_t x = 0; x < count; ++x) {
                to[x] += from[x];
            }
        });
    }

    // The entry that tap (z, y, x) of the tile's first pixel meets, and how far the next rows, planes and images are.
    int64_t at(int64_t z_tap, int64_t y_tap, int64_t x_tap) const {
        return ((z_tap - first_tap_[0]) * size_[1] + y_tap - first_tap_[1]) * size_[2] + x_tap - first_tap_[2];
    }
    int64_t row() const { return size_[2]; }
    int64_t plane() const { return size_[1] * size_[2]; }
    int64_t image() const { return size_[0] * plane(); }

    T* data() { return entries_.data(); }

 private:
    // body(row, image, z, y, whether the row is inside the input, entries before it is, entries inside).
    template <typename Body>
    void for_each_row(const Body& body) {
        const Steps inside_row = steps_inside(begin_[2], 1, geometry_.input[2], size_[2]);
        T* row = entries_.data();
        for (int64_t n = 0; n < images_; ++n) {
            for (int64_t z = begin_[0]; z < begin_[0] + size_[0]; ++z) {
                for (int64_t y = begin_[1]; y < begin_[1] + size_[1]; ++y, row += size_[2]) {
                    const bool inside = z >= 0 && z < geometry_.input[0] && y >= 0 && y < geometry_.input[1];
                    body(row, n, z, y, inside, inside_row.begin, inside_row.count());
                }
            }
        }
    }

    const Geometry& geometry_;
    int64_t images_ = 0;
    Axes first_tap_{}, begin_{}, size_{};
    std::vector<T> entries_;
};

// One element's passes over a window, forward and back. Planes between the passes are kept for the way back.
template <typename T>
class Passes {
 public:
    explicit Passes(const Geometry& geometry) : geometry_(geometry) {}

    void begin(const Tile& tile, const AxisFactors<T>* axes) {
        tile_ = tile;
        axes_ = axes;
        empty_ = false;
        for (int axis = 0; axis < kAxes; ++axis) {
            taps_[axis] = axes[axis].range.end - axes[axis].range.begin;
            // Rows and planes that the pass along `axis` needs of the passes before it.
            needed_[axis] = (tile.size[axis] - 1) * geometry_.stride[axis] + taps_[axis];
            empty_ = empty_ || taps_[axis] == 0;
        }
        if (!empty_) {
            after_x_.resize(tile.images * needed_[0] * needed_[1] * tile.size[2]);
            after_y_.resize(tile.images * needed_[0] * tile.size[1] * tile.size[2]);
        }
    }

    // Interpolates: `row` is one value a pixel.
    void forward(Window<T>& window, T* row) {
        if (empty_) {
            std::fill_n(row, tile_.pixels(), T(0));
            return;
        }
        const int last = geometry_.first_axis;
        T* after_x = last == 2 ? row : after_x_.data();
        along_x(window, [&](int64_t out, int64_t in, const PassShape& shape) {
            loops_.weigh(shape, window.data() + in, factor(2), after_x + out);
        });
        T* after_y = last == 1 ? row : after_y_.data();
        along(1, [&](int64_t out, int64_t in, const PassShape& shape) {
            loops_.weigh(shape, after_x + in, factor(1), after_y + out);
        });
        along(0, [&](int64_t out, int64_t in, const PassShape& shape) {
            loops_.weigh(shape, after_y + in, factor(0), row + out);
        });
    }

    // After forward(): adds to the window's gradient, and to what the loss contracts to; both may be null.
    void backward(Window<T>& window, const T* grad_row, Window<T>* grad_window, Contraction<T>* contraction) {
        if (empty_) {
            return;
        }
        const T* grad = grad_row;
        const auto back_along = [&](int axis, const std::vector<T>& input, std::vector<T>& grad_input) {
            grad_input.assign(input.size(), T(0));
            grad_factor_.assign(taps_[axis], T(0));
            along(axis, [&](int64_t out, int64_t in, const PassShape& shape) {
                loops_.spread(shape, grad + out, factor(axis), grad_input.data() + in);
                if (contraction != nullptr) {
                    loops_.correlate(shape, grad + out, input.data() + in, grad_factor_.data());
                }
            });
            contract(axis, contraction);
            grad = grad_input.data();
        };
        if (geometry_.first_axis == 0) {
            back_along(0, after_y_, grad_after_y_);
        }
        if (geometry_.first_axis <= 1) {
            back_along(1, after_x_, grad_after_x_);
        }
        grad_factor_.assign(taps_[2], T(0));
        along_x(window, [&](int64_t out, int64_t in, const PassShape& shape) {
            if (grad_window != nullptr) {
                loops_.spread(shape, grad + out, factor(2), grad_window->data() + in);
            }
            if (contraction != nullptr) {
                loops_.correlate(shape, grad + out, window.data() + in, grad_factor_.data());
            }
        });
        contract(2, contraction);
    }

 private:
    const T* factor(int axis) const { return axes_[axis].value + axes_[axis].range.begin; }

    // Adds what the gradient of an axis' factors means for the element.
    void contract(int axis, Contraction<T>* contraction) {
        if (contraction == nullptr) {
            return;
        }
        const AxisFactors<T>& factors = axes_[axis];
        for (int64_t t = 0; t < taps_[axis]; ++t) {
            const int64_t tap = factors.range.begin + t;
            contraction->d_position[axis] += grad_factor_[t] * factors.d_position[tap];
            contraction->d_sigma[axis] += grad_factor_[t] * factors.d_sigma[tap];
            // Any one axis gives the value.
            contraction->value += axis == 2 ? grad_factor_[t] * factors.value[tap] : T(0);
        }
    }

    // body(offset of the results, offset in the window, shape of the pass) for every row.
    template <typename Body>
    void along_x(const Window<T>& window, const Body& body) const {
        const int64_t start = window.at(axes_[0].range.begin, axes_[1].range.begin, axes_[2].range.begin);
        const PassShape shape{tile_.size[2], geometry_.stride[2], 1, taps_[2]};
        int64_t out = 0;
        for (int64_t n = 0; n < tile_.images; ++n) {
            for (int64_t z = 0; z < needed_[0]; ++z) {
                for (int64_t y = 0; y < needed_[1]; ++y) {
                    body(out, n * window.image() + z * window.plane() + y * window.row() + start, shape);
                    out += shape.count;
                }
            }
        }
    }

    // body(offset of the results, offset of the first tap, shape of the pass) for all rows (or planes, for axis 0) at
    // once where they follow each other, else for every one. Nothing to do for an axis that the kernel does not have.
    template <typename Body>
    void along(int axis, const Body& body) const {
        if (axis < geometry_.first_axis) {
            return;
        }
        const int64_t inner = axis == 1 ? tile_.size[2] : tile_.size[1] * tile_.size[2];
        const int64_t outer = axis == 1 ? tile_.images * needed_[0] : tile_.images;
        const int64_t size = tile_.size[axis], stride = geometry_.stride[axis];
        for (int64_t i = 0; i < outer; ++i) {
            const int64_t out = i * size * inner, in = i * needed_[axis] * inner;
            if (stride == 1) {
                body(out, in, PassShape{size * inner, 1, inner, taps_[axis]});
                continue;
            }
            for (int64_t j = 0; j < size; ++j) {
                body(out + j * inner, in + j * stride * inner, PassShape{inner, 1, inner, taps_[axis]});
            }
        }
    }

    const Geometry& geometry_;
    const PassLoops<T>& loops_ = inner_loops<T>().passes;
    Tile tile_{};
    const AxisFactors<T>* axes_ = nullptr;
    bool empty_ = false;
    Axes taps_{}, needed_{};
    std::vector<T> after_x_, after_y_, grad_after_x_, grad_after_y_, grad_factor_;
};

}  // namespace dcls::cpu
