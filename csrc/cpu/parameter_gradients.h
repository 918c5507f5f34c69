// From the gradient of a filter's taps to the gradients of its elements' parameters.
#pragma once

#include "filter_factors.h"

namespace dcls::cpu {

// Contracts the gradient of a filter's taps with its elements, at the taps that they touch.
template <Version version, typename T>
class Contractor {
 public:
    explicit Contractor(const Filters& filters)
        : loops_(outer_product_loops<T>(version)), padded_(padded_taps<T>(filters)), contractions_(filters.kernel_count) {}

    // Contractions of all elements.
    const Contraction<T>* operator()(const T* grad_taps, const FilterElements<T>& elements) {
        loops_.contract(elements, grad_taps, padded_.data(), contractions_.data());
        return contractions_.data();
    }

 private:
    const OuterProductLoops<T>& loops_;
    AlignedVector<T> padded_;
    std::vector<Contraction<T>> contractions_;
};

// The gradients of a kernel's parameters, written a filter at a time; those not asked for have no elements. Those of
// shared positions are kept per filter too, and added up in the end.
template <typename T>
class ParameterGradients {
 public:
    ParameterGradients(const Filters& filters, const PreparedParameters& parameters,
                       const std::array<bool, 3>& output_mask)
        : filters_(filters), weight_(parameters.weight), parameters_(parameters.pointers<T>()) {
        IntList per_filter = sizes(parameters.weight);
        per_filter.insert(per_filter.begin(), parameters.positions.size(0));
        const bool has_widths = parameters.sigma.has_value();
        tensors_ = {allocate(output_mask[0], sizes(parameters.weight)), allocate(output_mask[1], per_filter),
                    allocate(output_mask[2] && has_widths, per_filter)};
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
        const Contraction<T>* contractions = contract_filter(grad_taps, factors.elements());
        for (int64_t k = 0; k < filters_.kernel_count; ++k) {
            const int64_t element = filter * filters_.kernel_count + k;
            const std::array<AxisSums<T>, kAxes> axis_sums = sums(factors.element(k));
            Contraction<T> normalised;
            normalised.add(contractions[k], T(1) / normalisation<version>(axis_sums));
            if (grad_weight != nullptr) {
                grad_weight[element] = normalised.value;
            }
            for (int axis = filters_.first_axis; axis < kAxes; ++axis) {
                const AxisGradients<version, T> axis_gradients(normalised, axis_sums, axis);
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
        for (size_t i = 1; i < tensors_.size(); ++i) {
            if (filters_.shared_positions && gradients_[i] != nullptr) {
                tensors_[i] = sum_over_out_channels(tensors_[i], gradients_[i]);
            }
        }
        return {cast(tensors_[0], dtype), cast(tensors_[1], dtype), cast(tensors_[2], dtype)};
    }

 private:
    Tensor allocate(bool wanted, const IntList& shape) const {
        const ScalarType dtype = weight_.scalar_type();
        return wanted ? empty(shape, dtype, weight_) : not_computed(dtype, weight_);
    }

    // (d, O, ...) -> (d, 1, ...), adding out channels in order.
    Tensor sum_over_out_channels(const Tensor& gradients, const T* per_filter) const {
        IntList shape = sizes(gradients);
        shape[1] = 1;
        const Tensor shared = allocate(true, shape);
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
