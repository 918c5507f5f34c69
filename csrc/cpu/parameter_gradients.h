// From the gradient of a filter's taps to the gradients of its elements' parameters.
#pragma once

#include "../gradients.h"
#include "filter_factors.h"

namespace dcls::cpu {

// Contracts the gradient of a filter's taps with its elements, at the taps that they touch.
template <Version version, typename T>
class Contractor {
 public:
    explicit Contractor(const Filters& filters)
        : loops_(outer_product_loops<T>(version)),
          padded_(padded_taps<T>(filters)),
          contractions_(filters.kernel_count) {}

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

// The gradients of a kernel's parameters, written a filter at a time. Those of shared positions are kept per filter
// too, and added up in the end.
template <typename T>
class ParameterGradientWriter {
 public:
    ParameterGradientWriter(const Filters& filters, const PreparedParameters& parameters,
                            const ParameterGradients<bool>& wanted)
        : filters_(filters), weight_(parameters.weight), parameters_(parameters.pointers<T>()) {
        IntList per_filter = sizes(weight_);
        per_filter.insert(per_filter.begin(), parameters.positions.size(0));
        tensors_ = {empty_if(wanted.weight, sizes(weight_), parameters.dtype, weight_),
                    empty_if(wanted.positions, per_filter, parameters.dtype, weight_),
                    empty_if(wanted.sigma, per_filter, parameters.dtype, weight_)};
        const auto pointer = [](bool is_wanted, const Tensor& tensor) {
            return is_wanted ? tensor.mutable_data_ptr<T>() : nullptr;
        };
        pointers_ = {pointer(wanted.weight, tensors_.weight), pointer(wanted.positions, tensors_.positions),
                     pointer(wanted.sigma, tensors_.sigma)};
    }

    // grad_taps: of the filter's taps, at those that its elements touch.
    template <Version version>
    void write(int64_t filter, const T* grad_taps, const FilterFactors<version, T, true>& factors,
               Contractor<version, T>& contract_filter) {
        const auto [grad_weight, grad_positions, grad_sigma] = pointers_;
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

    // Once every filter has been written.
    ParameterGradients<Tensor> take(ScalarType dtype) const {
        const auto finished = [&](const Tensor& gradients, const T* per_filter) {
            return cast(filters_.shared_positions && per_filter != nullptr
                            ? sum_over_out_channels(gradients, per_filter)
                            : gradients,
                        dtype);
        };
        return {cast(tensors_.weight, dtype), finished(tensors_.positions, pointers_.positions),
                finished(tensors_.sigma, pointers_.sigma)};
    }

 private:
    // (d, O, ...) -> (d, 1, ...), adding out channels in order.
    Tensor sum_over_out_channels(const Tensor& gradients, const T* per_filter) const {
        IntList shape = sizes(gradients);
        shape[1] = 1;
        const Tensor shared = empty(shape, gradients.scalar_type(), gradients);
        const int64_t inner = filters_.in_channels_per_group * filters_.kernel_count;
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
    ParameterGradients<Tensor> tensors_;
    ParameterGradients<T*> pointers_{};
};

}  // namespace dcls::cpu
