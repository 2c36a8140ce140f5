// e^x and tanh of registers of floats. Needs the vocabulary of an instruction set.
#pragma once

#if !defined FLOATS
#error "attention/exponential.h: include a vocabulary (isa/) before"
#endif

// e^x below this counts as 0: it is less than 2^-125.
#define LEAST_EXPONENT (-86.9f)

// e^x = 2^n * (1 + below), where n is whole and |below| < 0.42.
struct exponential_parts {
    floats n, below;
};

// The polynomial is fitted to (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2. Its part of the relative error of e^x is below
// 2^-27.9, that of rounding below 2^-23.
TMAC_INLINE struct exponential_parts parts_of_exponential(floats x) {
    const floats n = whole_floats(multiply_floats(x, broadcast(0x1.715476p0f))); // x / ln(2)
    // ln(2) is the sum of two constants; n times the first one is exact.
    const floats r = multiply_add(n, broadcast(-0x1.7f7d1cp-20f), multiply_add(n, broadcast(-0x1.62e400p-1f), x));
    floats p = broadcast(0x1.6a2434p-10f);
    p = multiply_add(p, r, broadcast(0x1.1239e2p-7f));
    p = multiply_add(p, r, broadcast(0x1.5558f2p-5f));
    p = multiply_add(p, r, broadcast(0x1.555492p-3f));
    p = multiply_add(p, r, broadcast(0x1.fffffcp-2f));
    return (struct exponential_parts) { n, multiply_add(multiply_floats(r, r), p, r) };
}

// For x <= 80, -infinity included. The relative error is below 2^-22 above LEAST_EXPONENT. A NaN stays one.
TMAC_INLINE floats exponential(floats x) {
    const floats within = larger_floats(broadcast(LEAST_EXPONENT), x);
    const struct exponential_parts e = parts_of_exponential(within);
    return zero_where_less(times_power_of_two(add_floats(e.below, broadcast(1)), e.n), x, LEAST_EXPONENT);
}

// The relative error is below 2^-21, also near zero, because e^x - 1 is computed without cancellation.
TMAC_INLINE floats hyperbolic_tangent(floats x) {
    // tanh(x) = -t / (t + 2), where t = e^(-2|x|) - 1; beyond 20 it is 1 for floats.
    const floats magnitude = larger_floats(x, subtract_floats(broadcast(0), x));
    const floats limited =
        subtract_floats(broadcast(0), larger_floats(broadcast(-20), subtract_floats(broadcast(0), magnitude)));
    const struct exponential_parts e = parts_of_exponential(multiply_floats(limited, broadcast(-2)));
    const floats power = times_power_of_two(broadcast(1), e.n);
    const floats t = multiply_add(power, e.below, subtract_floats(power, broadcast(1)));
    const floats result = divide_floats(subtract_floats(broadcast(0), t), add_floats(t, broadcast(2)));
    const floats positive = zero_where_less(result, x, 0);
    return subtract_floats(positive, subtract_floats(result, positive));
}
