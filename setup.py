"""The compiled kernel of exact search, `m2kr/search/exact/maxsim.c`; all else is in pyproject.toml.

It is optional: where there is no compiler, or none that knows the processor's instructions, the package
is installed without it. It doesn't use Python's headers, so that one build serves all versions.
"""

import sysconfig

from setuptools import Extension, setup

one_for_all = not sysconfig.get_config_var("Py_GIL_DISABLED")
setup(
    ext_modules=[
        Extension(
            "m2kr.search.exact._maxsim",
            ["m2kr/search/exact/maxsim.c"],
            depends=["m2kr/search/exact/maxsim_kind.h"],
            extra_compile_args=["-O3", "-g0", "-fvisibility=hidden"],
            libraries=["m"],
            optional=True,
            py_limited_api=one_for_all,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if one_for_all else {},
)
