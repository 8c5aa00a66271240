// The models that there are, asked for once.

import { call } from './api.js';

let models = null;

/** Ask for them. Throws `ApiError`. */
export async function loadModels() {
  models = (await call('v1/models')).data.filter((model) => model.id === model.root);
  return models;
}

/** Those known, null before the first answer. */
export const knownModels = () => models;

/** The model of a name, else the first; undefined where none is known. */
export const modelOf = (name) => models?.find((model) => model.id === name) || models?.[0];
