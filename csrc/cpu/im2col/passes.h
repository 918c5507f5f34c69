// Interpolation of one in channel at one element, for a tile of output pixels, forward and back.
//
// The window of the padded input that the tile reads passes through one short filter per axis, last axis first, at the
// element's touched taps. Backward goes through the passes in reverse; the gradient of a pass in a factor is a dot
// product. Factors are not normalised.
//
// Bound by one load and one multiply-add a touched tap in each pass, from a window that fits a core's L1 or L2 cache.
#pragma once

#include "../filter_factors.h"
#include "../planes.h"

namespace dcls::cpu {

// out[j] (+)= sum over `taps` t of factor[t] * in[j * step + t * tap_step].
template <int taps, bool accumulate, typename T>
void weighted_sum(T* __restrict out, const T* __restrict in, int64_t count, int64_t step, int64_t tap_step,
                  const T* __restrict factor) {
    const auto sum_at = [&](int64_t j, int64_t stride) {
        T sum = factor[0] * in[j * stride];
        for (int t = 1; t < taps; ++t) {
            sum += factor[t] * in[j * stride + t * tap_step];
        }
        return sum;
    };
    if (step == 1) {
        for (int64_t j = 0; j < count; ++j) {
            out[j] = accumulate ? out[j] + sum_at(j, 1) : sum_at(j, 1);
        }
    } else {
        for (int64_t j = 0; j < count; ++j) {
            out[j] = accumulate ? out[j] + sum_at(j, step) : sum_at(j, step);
        }
    }
}

// The same for any number of taps, a few at a time.
template <typename T>
void weigh(T* out, const T* in, int64_t count, int64_t step, int64_t tap_step, const T* factor, int64_t taps) {
    switch (taps) {
        case 1:
            return weighted_sum<1, false>(out, in, count, step, tap_step, factor);
        case 2:
            return weighted_sum<2, false>(out, in, count, step, tap_step, factor);
        case 3:
            return weighted_sum<3, false>(out, in, count, step, tap_step, factor);
    }
    weighted_sum<4, false>(out, in, count, step, tap_step, factor);
    int64_t t = 4;
    for (; t + 4 <= taps; t += 4) {
        weighted_sum<4, true>(out, in + t * tap_step, count, step, tap_step, factor + t);
    }
    for (; t < taps; ++t) {
        weighted_sum<1, true>(out, in + t * tap_step, count, step, tap_step, factor + t);
    }
}

// The transpose of weigh(): grad_in[j * step + t * tap_step] += factor[t] * grad_out[j].
template <typename T>
void spread(const T* __restrict grad_out, T* __restrict grad_in, int64_t count, int64_t step, int64_t tap_step,
            const T* __restrict factor, int64_t taps) {
    for (int64_t t = 0; t < taps; ++t) {
        T* __restrict row = grad_in + t * tap_step;
        if (step == 1) {
            for (int64_t j = 0; j < count; ++j) {
                row[j] += factor[t] * grad_out[j];
            }
        } else {
            for (int64_t j = 0; j < count; ++j) {
                row[j * step] += factor[t] * grad_out[j];
            }
        }
    }
}

// The gradient of weigh() in its factors: grad_factor[t] += sum over j of grad_out[j] * in[j * step + t * tap_step].
template <typename T>
void correlate(const T* __restrict grad_out, const T* __restrict in, int64_t count, int64_t step, int64_t tap_step,
               T* __restrict grad_factor, int64_t taps) {
    for (int64_t t = 0; t < taps; ++t) {
        const T* __restrict row = in + t * tap_step;
        T sum = 0;
        if (step == 1) {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < count; ++j) {
                sum += grad_out[j] * row[j];
            }
        } else {
            for (int64_t j = 0; j < count; ++j) {
                sum += grad_out[j] * row[j * step];
            }
        }
        grad_factor[t] += sum;
    }
}

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
        const int64_t channels = geometry_.groups * geometry_.in_channels;
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
        const int64_t first = std::clamp<int64_t>(-begin_[2], 0, size_[2]);
        const int64_t last = std::clamp<int64_t>(geometry_.input[2] - begin_[2], first, size_[2]);
        T* row = entries_.data();
        for (int64_t n = 0; n < images_; ++n) {
            for (int64_t z = begin_[0]; z < begin_[0] + size_[0]; ++z) {
                for (int64_t y = begin_[1]; y < begin_[1] + size_[1]; ++y, row += size_[2]) {
                    const bool inside = z >= 0 && z < geometry_.input[0] && y >= 0 && y < geometry_.input[1];
                    body(row, n, z, y, inside, first, last - first);
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

    // Interpolates: `column` is one value a pixel.
    void forward(Window<T>& window, T* column) {
        if (empty_) {
            std::fill_n(column, tile_.pixels(), T(0));
            return;
        }
        const int last = geometry_.first_axis;
        T* after_x = last == 2 ? column : after_x_.data();
        along_x(window, [&](int64_t out, int64_t in, int64_t count, int64_t step) {
            weigh(after_x + out, window.data() + in, count, step, 1, factor(2), taps_[2]);
        });
        T* after_y = last == 1 ? column : after_y_.data();
        along(1, [&](int64_t out, int64_t in, int64_t count, int64_t tap_step) {
            weigh(after_y + out, after_x + in, count, 1, tap_step, factor(1), taps_[1]);
        });
        along(0, [&](int64_t out, int64_t in, int64_t count, int64_t tap_step) {
            weigh(column + out, after_y + in, count, 1, tap_step, factor(0), taps_[0]);
        });
    }

    // After forward(): adds to the window's gradient, and to what the loss contracts to; both may be null.
    void backward(Window<T>& window, const T* grad_column, Window<T>* grad_window, Contraction<T>* contraction) {
        if (empty_) {
            return;
        }
        const T* grad = grad_column;
        const auto back_along = [&](int axis, const std::vector<T>& input, std::vector<T>& grad_input) {
            grad_input.assign(input.size(), T(0));
            grad_factor_.assign(taps_[axis], T(0));
            along(axis, [&](int64_t out, int64_t in, int64_t count, int64_t tap_step) {
                spread(grad + out, grad_input.data() + in, count, 1, tap_step, factor(axis), taps_[axis]);
                if (contraction != nullptr) {
                    correlate(grad + out, input.data() + in, count, 1, tap_step, grad_factor_.data(), taps_[axis]);
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
        along_x(window, [&](int64_t out, int64_t in, int64_t count, int64_t step) {
            if (grad_window != nullptr) {
                spread(grad + out, grad_window->data() + in, count, step, 1, factor(2), taps_[2]);
            }
            if (contraction != nullptr) {
                correlate(grad + out, window.data() + in, count, step, 1, grad_factor_.data(), taps_[2]);
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

    // body(offset of the result, offset in the window, count, step between pixels) for every row.
    template <typename Body>
    void along_x(const Window<T>& window, const Body& body) const {
        const int64_t start = window.at(axes_[0].range.begin, axes_[1].range.begin, axes_[2].range.begin);
        int64_t out = 0;
        for (int64_t n = 0; n < tile_.images; ++n) {
            for (int64_t z = 0; z < needed_[0]; ++z) {
                for (int64_t y = 0; y < needed_[1]; ++y) {
                    const int64_t in = n * window.image() + z * window.plane() + y * window.row() + start;
                    body(out, in, tile_.size[2], geometry_.stride[2]);
                    out += tile_.size[2];
                }
            }
        }
    }

    // body(offset of the result, offset of the first tap, count, step between taps) for all rows (or planes, for axis
    // 0) at once where they lie together, else for every one. Nothing to do for an axis that the kernel does not have.
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
                body(out, in, size * inner, inner);
                continue;
            }
            for (int64_t j = 0; j < size; ++j) {
                body(out + j * inner, in + j * stride * inner, inner, inner);
            }
        }
    }

    const Geometry& geometry_;
    Tile tile_{};
    const AxisFactors<T>* axes_ = nullptr;
    bool empty_ = false;
    Axes taps_{}, needed_{};
    std::vector<T> after_x_, after_y_, grad_after_x_, grad_after_y_, grad_factor_;
};

}  // namespace dcls::cpu
