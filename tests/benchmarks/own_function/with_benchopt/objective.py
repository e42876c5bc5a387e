"""Sweeps a training function over 3 learning rates x 3 seeds; resumes after a kill; makes a page. Run: benchopt run FOLDER"""

from benchopt import BaseObjective


class Objective(BaseObjective):
    name = "digits"

    def set_data(self, images, labels):
        self.images, self.labels = images, labels

    def get_objective(self):
        return {"images": self.images[:1400], "labels": self.labels[:1400]}

    def evaluate_result(self, network):
        accuracy = (network(self.images[1400:]).argmax(1) == self.labels[1400:]).float().mean().item()
        return {"accuracy": accuracy, "value": 1 - accuracy}
