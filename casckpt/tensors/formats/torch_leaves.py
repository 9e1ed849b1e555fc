"""Which leaves a file of torch.save can hold so that weights_only reads them again."""


def check_torch(state: object) -> None: ...
