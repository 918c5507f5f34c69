// From the gradient of a filter's taps to the gradients of its elements' parameters.
#pragma once

#include "filter_tables.h"

namespace dcls::cpu {

// out[j] = sum over the range's i of factor[i] * rows[i][j]: contracts the leading axis of `rows`.
template <typename T>
void contract(const T* __restrict rows, const T* __restrict factor, TapRange range, std::vector<T>& out) {
    const auto columns = static_cast<int64_t>(out.size());
    T* __restrict sums = out.data();
    std::fill_n(sums, columns, T(0));
    for (int64_t i = range.begin; i < range.end; ++i) {
        const T scale = factor[i];
        const T* __restrict row = rows + i * columns;
        for (int64_t j = 0; j < columns; ++j) {
            sums[j] += scale * row[j];
        }
    }
}

template <typename T>
T dot(const T* a, const T* b, TapRange range) {
    T sum = 0;
    for (int64_t i = range.begin; i < range.end; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

// Contracts the gradient of a filter's taps with one element, at the taps that the element touches.
template <Version version, typename T>
class Contractor {
 public:
    explicit Contractor(const Filters& filters)
        : first_axis_(filters.first_axis),
          plane_(filters.extent[1] * filters.extent[2]),
          derivative_plane_(plane_.size()),
          row_(filters.extent[2]),
          derivative_row_(row_.size()) {}

    Contraction<T> operator()(const T* grad_taps, const AxisFactors<T>* axes) {
        const AxisFactors<T>&z = axes[0], &y = axes[1], &x = axes[2];
        Contraction<T> result;
        const T* plane = grad_taps;
        if (first_axis_ == 0) {
            result.d_position[0] = contract_all(grad_taps, z.d_position, z.range, y, x);
            if constexpr (has_sigma(version)) {
                result.d_sigma[0] = contract_all(grad_taps, z.d_sigma, z.range, y, x);
            }
            contract(grad_taps, z.value, z.range, plane_);
            plane = plane_.data();
        }
        const T* row = plane;
        if (first_axis_ <= 1) {
            result.d_position[1] = contract_plane(plane, y.d_position, y.range, x);
            if constexpr (has_sigma(version)) {
                result.d_sigma[1] = contract_plane(plane, y.d_sigma, y.range, x);
            }
            contract(plane, y.value, y.range, row_);
            row = row_.data();
        }
        result.value = dot(row, x.value, x.range);
        result.d_position[2] = dot(row, x.d_position, x.range);
        if constexpr (has_sigma(version)) {
            result.d_sigma[2] = dot(row, x.d_sigma, x.range);
        }
        return result;
    }

 private:
    // Contracts the first axis of a filter with `factor`, the others with their values.
    T contract_all(const T* grad_taps, const T* factor, TapRange range, const AxisFactors<T>& y,
                   const AxisFactors<T>& x) {
        contract(grad_taps, factor, range, derivative_plane_);
        return contract_plane(derivative_plane_.data(), y.value, y.range, x);
    }

    // Contracts the first axis of a plane with `factor`, the other with its values.
    T contract_plane(const T* plane, const T* factor, TapRange range, const AxisFactors<T>& x) {
        contract(plane, factor, range, derivative_row_);
        return dot(derivative_row_.data(), x.value, x.range);
    }

    int first_axis_;
    std::vector<T> plane_, derivative_plane_, row_, derivative_row_;
};

// The gradients of a kernel's parameters, written a filter at a time; those not asked for have no elements. Those of
// shared positions are kept per filter too, and added up in the end.
template <typename T>
class ParameterGradients {
 public:
    ParameterGradients(const Filters& filters, const PreparedParameters& parameters,
                       const std::array<bool, 3>& output_mask)
        : filters_(filters), weight_(parameters.weight), parameters_(parameters.pointers<T>()) {
        const IntList per_filter = positions_shape(filters.out_channels);
        const bool has_widths = parameters.sigma.has_value();
        tensors_ = {allocate(output_mask[0], {filters.out_channels, filters.in_channels, filters.kernel_count}),
                    allocate(output_mask[1], per_filter), allocate(output_mask[2] && has_widths, per_filter)};
        for (size_t i = 0; i < tensors_.size(); ++i) {
            gradients_[i] = tensors_[i].numel() > 0 ? tensors_[i].template mutable_data_ptr<T>() : nullptr;
        }
    }

    bool any() const { return gradients_[0] != nullptr || gradients_[1] != nullptr || gradients_[2] != nullptr; }

    // grad_taps: of the filter's taps, at those that its elements touch.
    template <Version version>
    void write(int64_t filter, const T* grad_taps, const FilterFactors<version, T, true>& factors,
               Contractor<version, T>& contract_filter) {
        const auto [grad_weight, grad_positions, grad_sigma] = gradients_;
        const int64_t axis_stride = filters_.count() * filters_.kernel_count;
        for (int64_t k = 0; k < filters_.kernel_count; ++k) {
            const int64_t element = filter * filters_.kernel_count + k;
            const AxisFactors<T>* axes = factors.element(k);
            Contraction<T> normalised;
            normalised.add(contract_filter(grad_taps, axes), T(1) / normalisation<version>(sums(axes)));
            if (grad_weight != nullptr) {
                grad_weight[element] = normalised.value;
            }
            for (int axis = filters_.first_axis; axis < kAxes; ++axis) {
                const AxisGradients<version, T> axis_gradients(normalised, sums(axes), axis);
                const int64_t at = (axis - filters_.first_axis) * axis_stride + element;
                if (grad_positions != nullptr) {
                    grad_positions[at] = parameters_.weight[element] * axis_gradients.position;
                }
                if (has_sigma(version) && grad_sigma != nullptr) {
                    grad_sigma[at] = parameters_.weight[element] * axis_gradients.sigma;
                }
            }
        }
    }

    // Gradients for (weight, positions, sigma), once every filter has been written.
    std::array<Tensor, 3> take(ScalarType dtype) {
        for (size_t i = 1; filters_.shared_positions && i < tensors_.size(); ++i) {
            if (gradients_[i] != nullptr) {
                tensors_[i] = sum_over_out_channels(gradients_[i]);
            }
        }
        return {cast(tensors_[0], dtype), cast(tensors_[1], dtype), cast(tensors_[2], dtype)};
    }

 private:
    IntList positions_shape(int64_t out_channels) const {
        return {kAxes - filters_.first_axis, out_channels, filters_.in_channels, filters_.kernel_count};
    }

    Tensor allocate(bool wanted, const IntList& shape) const {
        const ScalarType dtype = weight_.scalar_type();
        return wanted ? empty(shape, dtype, weight_) : not_computed(dtype, weight_);
    }

    // (d, O, I/g, K) -> (d, 1, I/g, K), adding out channels in order.
    Tensor sum_over_out_channels(const T* per_filter) const {
        const Tensor shared = allocate(true, positions_shape(1));
        const int64_t inner = filters_.in_channels * filters_.kernel_count;
        T* to = shared.template mutable_data_ptr<T>();
        parallel_for(0, kAxes - filters_.first_axis, 1, [&](int64_t begin, int64_t end) {
            for (int64_t axis = begin; axis < end; ++axis) {
                T* out = to + axis * inner;
                std::fill_n(out, inner, T(0));
                for (int64_t o = 0; o < filters_.out_channels; ++o) {
                    const T* in = per_filter + (axis * filters_.out_channels + o) * inner;
                    for (int64_t i = 0; i < inner; ++i) {
                        out[i] += in[i];
                    }
                }
            }
        });
        return shared;
    }

    const Filters& filters_;
    Tensor weight_;
    Parameters<T> parameters_;
    std::array<Tensor, 3> tensors_;
    std::array<T*, 3> gradients_{};
};

}  // namespace dcls::cpu
