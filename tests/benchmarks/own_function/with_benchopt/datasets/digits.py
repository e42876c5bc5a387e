"""The images of the sweep."""

import torch
from benchopt import BaseDataset
from sklearn.datasets import load_digits


class Dataset(BaseDataset):
    name = "digits"

    def get_data(self):
        images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
        return {"images": images.float() / 16, "labels": labels}
