"""A second device without a GPU: tensors that say they are on "meta", and have values all the same.

    with OtherDevice():
        there = model.to("meta")

As on a GPU, an operation refuses tensors of both devices, `.numpy()` is refused, and `is_cpu` is False. What torch
allows between a CPU and a GPU is allowed: copies, a CPU tensor without dimensions among the others, and CPU indices.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

META = torch.device("meta")
BETWEEN = {"_to_copy", "copy_", "_copy_from", "set_"}  # operations that move data
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}  # whose indices may be on the CPU


class There(torch.Tensor):
    """On the second device; `inner` has its values."""

    __slots__ = ("inner",)  # not in __dict__, which the code copies from one parameter to another

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=META, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return on_its_device(func, args, kwargs or {})

    def data_ptr(self):
        return self.inner.data_ptr()

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def tolist(self):
        return self.inner.tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self, **_):
        return f"There({self.inner})"


class OtherDevice(TorchDispatchMode):
    """While active, what is made on "meta" has values."""

    def __init__(self):
        super().__init__()
        self.making = _Making()

    def __enter__(self):
        self.making.__enter__()
        self.before = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # else a module keeps its old tensors
        return super().__enter__()

    def __exit__(self, *error):
        torch.__future__.set_overwrite_module_params_on_conversion(self.before)
        super().__exit__(*error)
        self.making.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return on_its_device(func, args, kwargs or {})


class _Making(TorchFunctionMode):
    """torch.tensor makes its tensor where no dispatch mode sees it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is not torch.tensor:
            return func(*args, **kwargs)
        place = kwargs.pop("device", None)
        made = func(*args, **kwargs)
        return made if place is None else made.to(place)


def on_its_device(func, args, kwargs):
    name = func._schema.name.split("::")[1]
    given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    there = any(isinstance(t, There) for t in given)
    if there and name not in BETWEEN:
        checked = given[:1] if name in INDEXED else given
        strangers = [t for t in checked if not isinstance(t, There) and t.dim()]
        if strangers or not isinstance(given[0], There) and name.endswith("_"):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found cuda:0 and cpu")
    asked = kwargs.get("device")
    if asked is not None:
        there = torch.device(asked) == META
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = tree_map_only(There, lambda t: t.inner, (args, kwargs))
    found = func(*inner_args, **inner_kwargs)
    if name.endswith("_") and given and found is inner_args[0]:
        return args[0]
    return tree_map_only(torch.Tensor, There, found) if there else found
