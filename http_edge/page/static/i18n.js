// The page's words in English and Chinese, and numbers, sizes and times as people say them.

import { kept } from './state.js';

const WORDS = {
  'nav.create': ['Create', '创作'],
  'nav.gallery': ['Gallery', '作品'],
  'nav.workers': ['Workers', '工作节点'],
  'nav.skip': ['Skip to content', '跳到内容'],
  'nav.theme': ['Light, dark, or as the system', '浅色、深色或跟随系统'],
  'nav.language': ['中文', 'English'],
  'nav.key': ['API key', 'API 密钥'],
  'nav.docs': ['API', 'API'],
  'queue.idle': ['Idle', '空闲'],
  'queue.busy': ['{running} running · {waiting} waiting', '运行 {running} · 排队 {waiting}'],
  'offline': ['The service does not answer. Trying again…', '服务没有响应，正在重试…'],
  'online': ['The service answers again.', '服务已恢复。'],

  'create.title': ['Create', '创作'],
  'create.prompt': ['Prompt', '提示词'],
  'create.prompt.hint': ['What should it show? Enter draws it, Shift+Enter begins a new line.', '想画什么？回车开始生成，Shift+回车换行。'],
  'create.negative': ['Negative prompt', '反向提示词'],
  'create.negative.hint': ['What it should not show', '不希望出现的内容'],
  'create.model': ['Model', '模型'],
  'create.output': ['Kind', '类型'],
  'create.video': ['Video', '视频'],
  'create.image': ['Picture', '图片'],
  'create.size': ['Size', '尺寸'],
  'create.custom': ['Other…', '自定义…'],
  'create.width': ['Width', '宽'],
  'create.height': ['Height', '高'],
  'create.length': ['Length', '时长'],
  'create.frames': ['{seconds} s · {frames} frames', '{seconds} 秒 · {frames} 帧'],
  'create.steps': ['Steps', '步数'],
  'create.guidance': ['Guidance', '引导强度'],
  'create.seed': ['Seed', '种子'],
  'create.seed.random': ['random', '随机'],
  'create.seed.dice': ['Roll a seed', '随机一个种子'],
  'create.seed.clear': ['Back to a random seed', '恢复随机种子'],
  'create.count': ['How many', '数量'],
  'create.preset': ['Preset', '预设'],
  'create.preset.none': ['The model’s own', '模型默认'],
  'create.cache': ['Step cache', '步缓存'],
  'create.cache.off': ['off: exact', '关闭：精确'],
  'create.cache.safe': ['safe', '稳妥'],
  'create.cache.fast': ['fast: lossy', '快速：有损'],
  'create.loras': ['LoRAs', 'LoRA'],
  'create.lora.scale': ['Scale of {name}', '{name} 的强度'],
  'create.previews': ['Show it while it is drawn', '生成时预览'],
  'create.sketch': ['Draft first: draw a third, and ask before the rest', '先出草稿：画三分之一，确认后继续'],
  'create.inputs': ['Pictures to start from', '参考素材'],
  'create.more': ['More settings', '更多设置'],
  'create.send': ['Draw', '生成'],
  'create.sending': ['Sending…', '提交中…'],
  'create.reset': ['Reset settings', '恢复默认'],
  'create.request': ['This request as', '用代码发送此请求'],
  'create.copy': ['Copy', '复制'],
  'create.copied': ['Copied', '已复制'],
  'create.empty': ['Describe something, and watch it come.', '描述一个画面，看它慢慢成形。'],
  'create.examples': ['For example', '例如'],
  'create.nomodel': ['No worker has registered yet, so no model is known. Start one: python -m workers', '还没有工作节点注册，因此没有可用模型。请启动：python -m workers'],
  'create.yours': ['In the queue', '队列'],
  'create.sent': ['Taken: {count} in the queue', '已提交：{count} 个任务'],

  'role.image': ['First picture', '首帧图片'],
  'role.last_image': ['Last picture', '尾帧图片'],
  'role.reference_images': ['Reference pictures', '参考图片'],
  'role.mask_image': ['Mask', '蒙版'],
  'role.control_image': ['Control picture', '控制图'],
  'role.video': ['Clip to draw over', '源视频'],
  'role.control_video': ['Control clip', '控制视频'],
  'role.pose_video': ['Pose clip', '姿态视频'],
  'role.face_video': ['Face clip', '面部视频'],
  'role.mask_video': ['Mask clip', '蒙版视频'],
  'role.background_video': ['Background clip', '背景视频'],
  'role.start_video': ['Clip to go on from', '续写视频'],
  'drop.hint': ['Drop, paste or choose', '拖放、粘贴或选择'],
  'drop.sending': ['Uploading…', '上传中…'],
  'drop.remove': ['Remove {name}', '移除{name}'],
  'drop.needed': ['needed', '必需'],

  'state.queued': ['waiting', '排队中'],
  'state.delayed': ['waits to be tried again', '等待重试'],
  'state.assigned': ['about to start', '即将开始'],
  'state.running': ['running', '生成中'],
  'state.succeeded': ['done', '完成'],
  'state.failed': ['failed', '失败'],
  'state.cancelled': ['cancelled', '已取消'],
  'state.parked': ['paused', '已暂停'],
  'parked.paused': ['paused', '已暂停'],
  'parked.draft': ['a draft: draw it to the end, or cancel it', '草稿：继续完成或取消'],
  'parked.preempted': ['makes room for a shorter job', '让位给更短的任务'],
  'phase.load': ['loading the model', '加载模型'],
  'phase.encode': ['reading the prompt', '理解提示词'],
  'phase.denoise': ['drawing', '绘制'],
  'phase.decode': ['decoding', '解码'],
  'phase.save': ['saving', '保存'],
  'watch.step': ['step {step} of {total}', '第 {step}/{total} 步'],
  'watch.next': ['next in line', '下一个'],
  'watch.position': ['{count} ahead', '前面还有 {count} 个'],
  'watch.eta': ['about {time} left', '约剩 {time}'],
  'watch.cancel': ['Cancel', '取消'],
  'watch.pause': ['Pause', '暂停'],
  'watch.pausing': ['Pausing after this step…', '本步完成后暂停…'],
  'watch.resume': ['Go on', '继续'],
  'watch.commit': ['Draw to the end', '完成绘制'],
  'watch.cancelling': ['Stopping; the GPU is being freed…', '正在停止，释放显卡…'],
  'watch.freed': ['Cancelled: the GPU was free after {time}', '已取消：{time} 后显卡已空闲'],
  'watch.progress': ['Progress', '进度'],
  'watch.preview': ['Preview while it is drawn', '生成中的预览'],
  'watch.quiet': ['Nothing waits and nothing runs.', '没有排队或运行的任务。'],
  'watch.took': ['took {time}', '用时 {time}'],
  'watch.attempt': ['attempt {count}', '第 {count} 次尝试'],
  'watch.aside': ['It waits for the operator: {reason}', '等待管理员处理：{reason}'],

  'gallery.title': ['Gallery', '作品'],
  'gallery.search': ['Search prompts', '搜索提示词'],
  'gallery.model': ['Model', '模型'],
  'gallery.state': ['State', '状态'],
  'gallery.since': ['From', '从'],
  'gallery.until': ['To', '到'],
  'gallery.any': ['All', '全部'],
  'gallery.pinned': ['Pinned', '已收藏'],
  'gallery.empty': ['Nothing here yet. What you draw comes here.', '还没有作品，生成的内容会出现在这里。'],
  'gallery.none': ['Nothing matches these filters.', '没有符合条件的作品。'],
  'gallery.clear': ['Clear filters', '清除筛选'],
  'gallery.count': ['{count} shown', '已显示 {count} 个'],
  'gallery.more': ['{count} shown, more below', '已显示 {count} 个，向下滚动加载更多'],
  'gallery.loading': ['Looking…', '查找中…'],
  'gallery.new': ['{count} new: show', '{count} 个新作品：显示'],

  'view.play': ['Play', '播放'],
  'view.pause': ['Pause', '暂停'],
  'view.loop': ['Loop', '循环'],
  'view.back': ['One frame back', '后退一帧'],
  'view.forward': ['One frame on', '前进一帧'],
  'view.close': ['Close', '关闭'],
  'view.download': ['Download', '下载'],
  'view.pin': ['Pin', '收藏'],
  'view.unpin': ['Unpin', '取消收藏'],
  'view.pinned': ['Pinned: it is kept until you unpin it.', '已收藏：取消收藏前不会被清理。'],
  'view.delete': ['Delete', '删除'],
  'view.delete.sure': ['Delete it for good, files and record?', '确定永久删除文件和记录吗？'],
  'view.deleted': ['Deleted.', '已删除。'],
  'view.again': ['Again with this seed', '用此种子重画'],
  'view.vary': ['Vary', '变体'],
  'view.first': ['Use as first picture', '用作首帧'],
  'view.details': ['Details', '详情'],
  'view.output': ['Output {number}', '结果 {number}'],
  'view.warnings': ['Notes', '提示'],
  'view.history': ['What happened', '经过'],
  'view.gone': ['There is no such job, or no more.', '该任务不存在或已删除。'],
  'view.submitted': ['Submitted', '提交于'],
  'view.waited': ['Waited', '排队'],
  'view.ran': ['Drawn in', '生成用时'],
  'view.worker': ['Worker', '节点'],
  'view.expires': ['Kept until', '保留至'],

  'workers.title': ['Workers', '工作节点'],
  'workers.empty': ['No worker has registered. Start one: python -m workers --gpus auto', '还没有工作节点。启动：python -m workers --gpus auto'],
  'workers.memory': ['Memory', '显存'],
  'workers.temperature': ['Temperature', '温度'],
  'workers.power': ['Power', '功率'],
  'workers.use': ['Use', '利用率'],
  'workers.done': ['Done / failed', '完成 / 失败'],
  'workers.doing': ['Doing', '任务'],
  'workers.nothing': ['nothing', '无'],
  'workers.since': ['for {time}', '已 {time}'],
  'workers.drain': ['Drain', '排空'],
  'workers.drain.sure': ['{name} finishes what it holds, takes nothing new, and leaves. Drain it?', '{name} 会完成手头任务、不再接新任务并退出。确定排空吗？'],
  'workers.drained': ['{name} finishes what it holds and leaves.', '{name} 将完成手头任务后退出。'],
  'workers.undrain': ['Back to work', '恢复工作'],
  'workers.undrained': ['{name} takes jobs again.', '{name} 将继续接收任务。'],
  'workers.loras': ['LoRAs', 'LoRA'],
  'workers.fault': ['Fault', '故障'],
  'workers.queue': ['Queue by model', '各模型排队'],
  'workers.queue.none': ['Nothing waits.', '没有排队。'],
  'workers.hour': ['The last hour', '最近一小时'],
  'workers.hour.none': ['The first figures come within seconds of the start.', '启动数秒后开始有数据。'],
  'usage.title': ['Usage', '用量'],
  'usage.by.day': ['Day', '日期'],
  'usage.by.model': ['Model', '模型'],
  'usage.by.key': ['Key', '密钥'],
  'usage.days': ['{days} days', '{days} 天'],
  'usage.succeeded': ['Done', '完成'],
  'usage.failed': ['Failed', '失败'],
  'usage.cancelled': ['Cancelled', '取消'],
  'usage.gpu': ['GPU time', 'GPU 时间'],
  'usage.lost': ['Wasted', '浪费'],
  'usage.bytes': ['Results', '结果大小'],
  'usage.nokey': ['without a key', '无密钥'],
  'usage.none': ['Nothing was drawn in these days.', '这段时间没有生成任务。'],
  'usage.more': ['There is more: choose fewer days.', '结果未全部显示：请选择更短的时间。'],
  'usage.chart': ['GPU time a day: {total} in all, at most {most}', '每日 GPU 时间：共 {total}，最多 {most}'],
  'chart.busy': ['Busy workers', '繁忙节点'],
  'chart.waiting': ['Jobs that wait', '排队任务'],
  'chart.wait': ['Predicted wait', '预计等待'],
  'chart.rate': ['Finished a minute', '每分钟完成'],
  'chart.now': ['{label}: now {now}, at most {most}', '{label}：当前 {now}，最高 {most}'],
  'worker.starting': ['starting', '启动中'],
  'worker.idle': ['idle', '空闲'],
  'worker.busy': ['busy', '工作中'],
  'worker.suspect': ['silent', '无响应'],
  'worker.draining': ['draining', '排空中'],
  'worker.benched': ['set aside: jobs failed there', '已隔离：任务失败'],
  'worker.faulty': ['faulty', '故障'],
  'worker.lost': ['lost', '丢失'],

  'key.title': ['This service asks for an API key', '此服务需要 API 密钥'],
  'key.label': ['API key', 'API 密钥'],
  'key.note': ['It is kept in this tab until you close it, and sent to this service alone.', '密钥只保存在此标签页，关闭后清除，并且只发送给本服务。'],
  'key.wrong': ['This key is not known, or has expired.', '密钥无效或已过期。'],
  'key.enter': ['Sign in', '登录'],
  'key.leave': ['Forget the key', '忘记密钥'],

  'sure.yes': ['Yes', '确定'],
  'sure.no': ['No', '取消'],
  'help.title': ['Keys', '快捷键'],
  'help.rows': ['n: new prompt|g: gallery|w: workers|/: search|Space: play|← →: one frame|Esc: close|?: this list', 'n：新提示词|g：作品|w：节点|/：搜索|空格：播放|← →：逐帧|Esc：关闭|?：本列表'],

  'error.offline': ['The service does not answer. Check that it runs, then try again.', '服务没有响应。请确认服务已启动，然后重试。'],
  'error.queue_full': ['The queue is full. Try again in {time}.', '队列已满，请在 {time} 后重试。'],
  'error.no_workers': ['No worker is there to draw. Start one, or wait until it has loaded.', '没有可用的工作节点，请启动或等待加载完成。'],
  'error.disk_full': ['The service’s disk is full. Delete what is not needed.', '服务磁盘已满，请删除不需要的作品。'],
  'error.unavailable': ['The service cannot take this now. Try again in a moment.', '服务暂时不可用，请稍后重试。'],
  'error.forbidden': ['This is not allowed here.', '没有权限。'],
  'error.too_large': ['This file is too large.', '文件过大。'],
  'error.gone': ['This file is no longer kept.', '文件已被清理。'],
  'failed.invalid_input': ['The model does not take these values: change the settings.', '模型不接受这些参数，请调整设置。'],
  'failed.out_of_memory': ['The GPU’s memory did not suffice: choose a smaller size, or fewer frames.', '显存不足：请减小尺寸或缩短时长。'],
  'failed.engine_error': ['The model’s pipeline failed. Try other settings; the log of the service says more.', '模型运行出错，可尝试其他设置；详情见服务日志。'],
  'failed.engine_crashed': ['The engine ended under it. Try again; if it happens again, ask the operator.', '引擎意外退出，请重试；若反复出现请联系管理员。'],
  'failed.hung': ['It stood still for too long and was stopped. Try again.', '任务长时间无进展已被停止，请重试。'],
  'failed.expired': ['Its deadline passed before it was done.', '已超过截止时间。'],
  'failed.quarantined': ['It was given up after several crashes. Change the settings before you try again.', '多次崩溃后已放弃，请修改设置后再试。'],
};

const LANGUAGES = ['en', 'zh'];
export const language = kept('zoetrope.language', navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en');

/** The words of a key, with `{name}` filled in; a key that is none is shown as it is. */
export function t(key, values = {}) {
  const found = WORDS[key]?.[LANGUAGES.indexOf(language.get())] ?? key;
  return found.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** The words of a key, or others where it is none. */
export const known = (key, otherwise) => (key in WORDS ? t(key) : otherwise);

/** A duration in seconds, as "4.2 s", "3 min". */
export function duration(seconds) {
  const zh = language.get() === 'zh';
  if (seconds < 10) return `${seconds.toFixed(1)} ${zh ? '秒' : 's'}`;
  if (seconds < 90) return `${Math.round(seconds)} ${zh ? '秒' : 's'}`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} ${zh ? '分钟' : 'min'}`;
  return `${(seconds / 3600).toFixed(1)} ${zh ? '小时' : 'h'}`;
}

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language.get(), { maximumFractionDigits: digits }).format(value);

export const moment = (unix) =>
  new Intl.DateTimeFormat(language.get(), { dateStyle: 'medium', timeStyle: 'short' }).format(unix * 1000);

/** MB as "3.4 GB". */
export const megabytes = (value) => (value < 1024 ? `${number(value)} MB` : `${number(value / 1024, 1)} GB`);

/** What went wrong with a request, and what to do. */
export function problem(error) {
  const advice = known(`error.${error.code}`, '').replace('{time}', duration(error.retryAfter || 5));
  if (!advice) return error.message || String(error);
  return error.message && error.code !== 'queue_full' ? `${advice} (${error.message})` : advice;
}

/** Why a job failed, and what to do: [advice, the engine's own words]. */
export const failure = (error) => [known(`failed.${error.code}`, t('state.failed')), error.message];
